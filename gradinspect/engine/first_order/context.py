"""What a section of the report is computed from, and what it hands back: noise, curvature, Jacobian, trace, scales.

A section runs after the first-order pass, on the same model and batch. It leaves the model as it found it (weights,
gradients, buffers, modes, random state), asks its budget before each step that costs a pass, and says `undetermined`
with a reason where it cannot tell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from gradinspect.contracts.document import Document
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.network.batch import Batch
from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.tracing.naming import CallName
from gradinspect.engine.tracing.run_pass import PassReading


class Budget:
    """Wall seconds that are left for everything that is still to be computed.

    Args:
        seconds: from now on; None for as long as it takes.
    """

    def __init__(self, seconds: float | None) -> None:
        self._deadline = math.inf if seconds is None else time.perf_counter() + seconds

    @property
    def seconds_left(self) -> float:
        """Infinite without a limit; negative once it is over."""
        return self._deadline - time.perf_counter()

    def allows(self, seconds: float) -> bool:
        """Whether a step that is estimated to take so long still fits."""
        return seconds <= self.seconds_left

    def part(self, share: float, *, reserve: float = 0.0) -> Budget:
        """A share of what is left, for one of several sections, after `reserve` seconds are set aside."""
        left = self.seconds_left - reserve
        return Budget(None if math.isinf(left) else max(left, 0.0) * share)


@dataclass(frozen=True)
class SectionInput:
    """Everything a section may read.

    Attributes:
        model: in the mode that was asked for, on `device`.
        parameters: its parameters; entries that share memory are one.
        batch: the batch of the first-order pass; `batch.inputs` is what the model is called with.
        loss_of: from the model's output to the scalar, mean-reduced loss; the target is the first pass's.
        target: what that loss compares with; None for losses that take none.
        loss_between: the same loss of an output and another target, a minibatch's for instance.
        reading: what the first-order pass saw.
        names: the names of `reading.calls`, in their order.
        pass_seconds: wall time of that forward and backward pass, the unit of cost estimates.
        rebuild: a fresh, equally built model from another seed; None where initialisation is not ours to draw (uploads
            and a notebook's modules).
        progress: told the fraction of this section that is done.
    """

    model: nn.Module
    parameters: ParameterIndex
    batch: Batch
    loss_of: Callable[[torch.Tensor], torch.Tensor]
    target: torch.Tensor | None
    loss_between: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
    settings: InspectionSettings
    reading: PassReading
    names: Sequence[CallName]
    seed: int
    device: torch.device
    pass_seconds: float
    budget: Budget
    rebuild: Callable[[int], nn.Module] | None = None
    progress: Callable[[float], None] = lambda _fraction: None


@dataclass(frozen=True)
class SectionResult:
    """A section of the report, and what it adds to rows.

    Attributes:
        section: the report's document.
        parameters: name of a parameter → fields of its row.
    """

    section: Document
    parameters: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


Section = Callable[[SectionInput], SectionResult]


def refused(budget: Budget, seconds: float) -> str | None:
    """Why a step that is estimated to take so long is left out; None where it fits."""
    if budget.allows(seconds):
        return None
    return f"budget: needs about {seconds:.3g} s, {max(budget.seconds_left, 0.0):.3g} s are left"
