"""The plan of a spec: every layer call with its path, shapes, parameters and initialisers.

Pure Python and no torch. `gradinspect.contracts.spec.walk` makes a plan; `engine.network.build` follows it and never
infers a shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradinspect.contracts.spec.initialization import Initializer
from gradinspect.contracts.spec.layers import Container, Layer, Sequential, Shape
from gradinspect.contracts.spec.spec_error import Location


@dataclass(frozen=True, slots=True)
class Call:
    """One layer of torch.nn, called once."""

    key: str  # its name in the module that holds it: a position, or the layer's `name`
    path: str  # its name in the whole model
    layer: Layer
    inferred: Mapping[str, object]
    input_shape: Shape
    output_shape: Shape
    parameters: Mapping[str, Shape]
    initializers: Mapping[str, Initializer]
    saved: int  # elements saved for backward, per sample
    frozen: bool
    location: Location  # in the spec's document
    tied_to: str | None = None  # path of the call whose weight this one shares


@dataclass(frozen=True, slots=True)
class Block:
    """A container with its rows of steps: one row, or one for each branch; `shortcut` only for Residual."""

    key: str
    path: str
    container: Container
    rows: tuple[tuple[Step, ...], ...]
    shortcut: tuple[Step, ...]
    output_shape: Shape


Step = Call | Block


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole spec, resolved."""

    steps: tuple[Step, ...]
    output_shape: Shape
    parameters: int  # elements, shared ones once
    vocabulary: int | None  # the smallest num_embeddings that reads the input's tokens

    def calls(self) -> Iterator[Call | Block]:
        """Yield layer calls in the order they run; Residual and Concat after what is inside them."""
        yield from _in_order(self.steps)

    def same_parameters(self, other: Plan) -> bool:
        """Check whether both plans have the same parameters under the same names."""
        mine, theirs = (
            {call.path: call.parameters for call in plan.calls() if isinstance(call, Call)} for plan in (self, other)
        )
        return mine == theirs


def _in_order(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        if isinstance(step, Block):
            for row in step.rows:
                yield from _in_order(row)
            yield from _in_order(step.shortcut)
            if not isinstance(step.container, Sequential):
                yield step
        else:
            yield step
