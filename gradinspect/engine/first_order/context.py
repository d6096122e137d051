"""Input and result of a section of the report (noise, curvature, Jacobian, training trace, learning-rate scales).

A section runs after the first-order pass, on the same model and batch. It restores the model (weights, gradients,
buffers, modes, random state), checks its budget before each step that costs a pass, and reports `undetermined` with a
reason where it cannot measure.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from gradinspect.contracts.document import Document
from gradinspect.contracts.report.setup import OutputHead
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.first_order.opened_gates import Opened
from gradinspect.engine.network.batch import Batch, Target
from gradinspect.engine.network.outputs import ModelOutput
from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.tracing.naming import CallName
from gradinspect.engine.tracing.readings import PassReading


class Budget:
    """Wall time left for the remaining computations.

    Args:
        seconds: from now on; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._deadline = math.inf if seconds is None else time.perf_counter() + seconds

    @property
    def seconds_left(self) -> float:
        """Seconds left; infinite without a limit, negative after the deadline."""
        return self._deadline - time.perf_counter()

    def allows(self, seconds: float) -> bool:
        """Check that a step of estimated duration still fits."""
        return seconds <= self.seconds_left

    def part(self, share: float, *, reserve: float = 0.0) -> Budget:
        """Return a budget of a share of the time left, after setting `reserve` seconds aside."""
        left = self.seconds_left - reserve
        return Budget(None if math.isinf(left) else max(left, 0.0) * share)


@dataclass(frozen=True)
class SectionInput:
    """Everything a section may read.

    Attributes:
        model: the model in its requested mode, on `device`.
        parameters: its parameters; tied ones are one entry.
        batch: the batch of the first-order pass; `batch.inputs` are the model's arguments.
        loss_of: maps that part of the model's output to the scalar, mean-reduced loss with the first pass's target.
        target: that target; None for losses without one.
        loss_between: the same loss of an output and another target, such as a minibatch's.
        terms_of: the named terms whose sum is the loss of an output and a target.
        terms: reads their values in the first pass.
        heads: how the loss reads the outputs.
        part_of: maps what the model returned to the part that the loss reads.
        settings: the request.
        reading: measurements of the first-order pass.
        names: the names of `reading.calls`, in their order.
        opened: the pass with zero weights opened, where they stop the signal.
        seed: source of everything random.
        device: the device of model and batch.
        pass_cpu_seconds: CPU time of the calling thread in that pass, which other load does not change.
        pass_seconds: wall time of the first forward and backward pass, the unit of cost estimates.
        budget: the time left for this section.
        rebuild: builds the model from another seed; None for models that we do not initialise (uploads, modules).
        progress: called with the completed fraction of this section.
        memory_left_bytes: for copies of the parameters and the like; None where no limit is known.
        has_named_loss: False for a caller's function of output and target.
    """

    model: nn.Module
    parameters: ParameterIndex
    batch: Batch
    loss_of: Callable[[ModelOutput], torch.Tensor]
    target: Target
    loss_between: Callable[[ModelOutput, Target], torch.Tensor]
    part_of: Callable[[ModelOutput], ModelOutput]
    terms_of: Callable[[ModelOutput, Target], Mapping[str, torch.Tensor]]
    terms: Callable[[], Mapping[str, float]]
    settings: InspectionSettings
    reading: PassReading
    names: Sequence[CallName]
    seed: int
    device: torch.device
    pass_seconds: float
    pass_cpu_seconds: float
    budget: Budget
    heads: Sequence[OutputHead] = ()
    opened: Opened | None = None
    rebuild: Callable[[int], nn.Module] | None = None
    progress: Callable[[float], None] = lambda _fraction: None
    memory_left_bytes: int | None = None
    has_named_loss: bool = True


@dataclass(frozen=True)
class SectionResult:
    """A section of the report, and fields that it adds to rows.

    Attributes:
        section: the section's document.
        parameters: name of a parameter → fields of its row.
    """

    section: Document
    parameters: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


Section = Callable[[SectionInput], SectionResult]


def refused(budget: Budget, seconds: float) -> str | None:
    """Return why a step of estimated duration is left out; None where it fits."""
    if budget.allows(seconds):
        return None
    return f"budget: needs about {seconds:.3g} s, {max(budget.seconds_left, 0.0):.3g} s are left"
