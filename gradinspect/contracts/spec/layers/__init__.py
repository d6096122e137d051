"""The layers of a model spec: one class for each allowed class of `torch.nn` and for our additions, one family a file.

Each class declares the constructor's arguments, their bounds and torch's defaults, and computes output shape and
parameters from an input shape. No torch; tests/contracts compares every class with torch's.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, get_args

from pydantic import Discriminator, Field, Tag

from gradinspect.contracts.spec.layers import (
    activation,
    attention,
    containers,
    convolution,
    dense,
    dropout,
    normalization,
    padding,
    pooling,
    recurrent,
    reshaping,
)
from gradinspect.contracts.spec.layers.containers import Concat, Container, Repeat, Residual, Sequential
from gradinspect.contracts.spec.layers.layer import Layer, MisfitError, Resolved, Shape

_FAMILIES = (
    dense, convolution, pooling, normalization, activation, dropout, reshaping, padding, recurrent, attention,
    containers,
)  # fmt: skip


def _layer_types() -> dict[str, type[Layer | Container]]:
    """Map the value of `type` to its class, for all classes that the families define."""
    result: dict[str, type[Layer | Container]] = {}
    for family in _FAMILIES:
        for value in (*vars(family).values(), *getattr(family, "WITHOUT_ARGUMENTS", ())):
            if isinstance(value, type) and issubclass(value, Layer | Container):
                result.update(dict.fromkeys(get_args(value.model_fields["type"].annotation), value))
    return result


LAYER_TYPES = _layer_types()

if TYPE_CHECKING:
    TypedLayer = Layer | Container
else:
    TypedLayer = Annotated[reduce(or_, LAYER_TYPES.values()), Field(discriminator="type")]


def _single_or_repeated(value: object) -> str:
    if isinstance(value, dict):
        return "repeated" if "repeat" in value and "type" not in value else "single"
    return "repeated" if isinstance(value, Repeat) else "single"


Entry = Annotated[
    Annotated[TypedLayer, Tag("single")] | Annotated[Repeat, Tag("repeated")], Discriminator(_single_or_repeated)
]

for _container in (Sequential, Residual, Concat, Repeat):
    _container.model_rebuild(_types_namespace={"Entry": Entry})


__all__ = [
    "LAYER_TYPES", "Concat", "Container", "Entry", "Layer", "MisfitError", "Repeat", "Residual", "Resolved",
    "Sequential", "Shape", "TypedLayer",
]  # fmt: skip
