"""Check that a TorchScript model has the same gradients in every call; compiled graphs have changed theirs.

Source: pytorch issue 108670, in which gradients of a scripted model were silently wrong from the second call on.
"""

from __future__ import annotations

import torch

from gradinspect.contracts.report.report import SelfCheck
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.autocast import casting
from gradinspect.engine.network.reproducible import left_as_found, ordinary_graphs, seeded
from gradinspect.engine.tracing.readings import PassReading
from gradinspect.engine.tracing.run_pass import TracedPass

NAME = "repeated_calls"
CALLS = 2  # after the first: the compiler recompiles in the second and the third
LONGEST_PASS_SECONDS = 0.5
TOLERANCE_EPSILONS = 1_000  # chosen: threads may split sums differently from call to call


def repeated_calls(s: SectionInput) -> list[SelfCheck]:
    """Compute the gradients of a TorchScript model twice more, and compare every parameter's norm with the report's.

    Cost: two forward and backward passes.
    """
    if not isinstance(s.model, torch.jit.ScriptModule):
        return []
    if s.pass_seconds > LONGEST_PASS_SECONDS or not s.budget.allows(CALLS * s.pass_seconds):
        reason = f"it takes two passes of {s.pass_seconds:.2g} s"
        return [SelfCheck(name=NAME, status="not_applicable", detail=reason)]
    total = sum(norm**2 for norm in _norms(s.reading).values()) ** 0.5
    worst = 0.0
    for _ in range(CALLS):
        again = _norms(_rerun(s))
        for name, norm in _norms(s.reading).items():
            # Relative to the whole gradient: one that is zero but for rounding may change by all of its norm.
            worst = max(worst, abs(again.get(name, 0.0) - norm) / (total or 1.0))
    tolerance = TOLERANCE_EPSILONS * torch.finfo(_dtype(s)).eps
    return [
        SelfCheck(
            name=NAME,
            status="passed" if worst <= tolerance else "failed",
            value=worst,
            tolerance=tolerance,
            detail="largest change of a gradient's norm from call to call, relative to the norm of all gradients",
        )
    ]


def _norms(reading: PassReading) -> dict[str, float]:
    return {entry.name: found.moments.norm for entry, found in reading.gradients.items() if found.moments.is_finite}


def _rerun(s: SectionInput) -> PassReading:
    with left_as_found(s.model, s.settings.mode), ordinary_graphs(), seeded(s.seed, s.device):
        return TracedPass(
            s.model, s.parameters, s.batch.inputs, s.loss_of,
            casting=casting(s.settings.precision, s.device), loss_scale=s.reading.loss_scale,
        ).run_for_gradients()  # fmt: skip


def _dtype(s: SectionInput) -> torch.dtype:
    return next((entry.tensor.dtype for entry in s.parameters if entry in s.reading.gradients), torch.float32)
