"""One ATen operation of the forward pass, from before it runs until its output is summarized."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from gradinspect.engine.tracing.activations import Activation
from gradinspect.engine.tracing.calls import ActivationCall, LayerCall
from gradinspect.engine.tracing.nonlinearities import Step
from gradinspect.engine.tracing.operator_names import ATEN_SHAPE_GIVING
from gradinspect.engine.tracing.origins import DATA, Sources


@dataclass(eq=False, slots=True)
class Operation:
    """An operation about to run; it holds no tensor but its data.

    Attributes:
        name: of the ATen operation.
        sources: its parameters and data, and the origin of its output.
        step: what it continues, where it may be a part of a nonlinearity.
        activation: the nonlinearity that it computes alone.
        follows: the layer call whose output that nonlinearity takes.
        fed_by: the layer calls that the nonlinearity takes together, where it does not follow a single one.
        arguments: scalars, where it has parameters.
    """

    name: str
    sources: Sources
    step: Step | None = None
    activation: Activation | None = None
    follows: LayerCall | None = None
    fed_by: list[LayerCall] = field(default_factory=list)
    arguments: tuple[Any, ...] = ()  # Any: scalars of an ATen call

    @property
    def is_followed(self) -> bool:
        """Whether its output may be that of a layer call, or of a nonlinearity behind one."""
        return self.sources.mark is DATA or bool(self.sources.entries) or self.step is not None


@dataclass(eq=False, slots=True)
class Returned:
    """An operation that has returned a floating-point tensor made from the inputs.

    Attributes:
        output: its first output. The autograd node is attached after the dispatch mode has returned.
        shape: of the output as the module returns it.
        activation: the nonlinearity that it computed alone.
    """

    operation: Operation
    output: torch.Tensor
    shape: tuple[int, ...]
    activation: ActivationCall | None

    def is_unfolded_by(self, view: str, result: torch.Tensor) -> bool:
        """Check whether a view restores leading axes that the module folded before the operation.

        The view then has the shape that the module returns. Reshapes made by the caller (splitting heads) do not count.

        Args:
            view: name of the ATen operation.
            result: what it returned.
        """
        if view not in ATEN_SHAPE_GIVING:
            return False
        before, after = self.output.shape, result.shape
        if "batch_norm" in self.operation.name:  # instance norm folds samples into channels
            return before[0] == 1 and len(before) == len(after) and after[0] * after[1] == before[1]
        return len(after) > len(before) and before[-1:] == after[-1:]


def scalars_of(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace tensors by None."""
    return tuple(None if isinstance(argument, torch.Tensor) else argument for argument in arguments)
