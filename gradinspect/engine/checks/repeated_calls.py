"""Check that a TorchScript model has the same gradients in every call; compiled graphs have changed theirs.

Source: pytorch issue 108670, in which gradients of a scripted model were silently wrong from the second call on.
"""

from __future__ import annotations

import torch

from gradinspect.contracts.report.report import SelfCheck
from gradinspect.engine.checks.allowance import Allowance
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.autocast import casting
from gradinspect.engine.network.model_errors import read_error
from gradinspect.engine.network.reproducible import left_as_found, ordinary_graphs, seeded
from gradinspect.engine.tracing.readings import PassReading
from gradinspect.engine.tracing.run_pass import TracedPass

NAME = "repeated_calls"
CALLS = 2  # after the first: the compiler recompiles in the second and the third
MOST_REASON = 300  # characters
TOLERANCE_EPSILONS = 1_000  # chosen: threads may split sums differently from call to call


def repeated_calls(s: SectionInput, allowance: Allowance) -> list[SelfCheck]:
    """Compute the gradients of a TorchScript model again, and compare every parameter's norm with the report's.

    Cost: two forward and backward passes, one where the allowance has no time for two.
    """
    if not isinstance(s.model, torch.jit.ScriptModule):
        return []
    try:
        return [_compared(s, allowance)]
    except Exception as error:  # noqa: BLE001  # a check may not take the report with it, whatever the model raises
        reason = f"the model did not run again: {read_error(error)}"
        return [SelfCheck(name=NAME, status="not_applicable", detail=reason[:MOST_REASON])]


def _compared(s: SectionInput, allowance: Allowance) -> SelfCheck:
    total = sum(norm**2 for norm in _norms(s.reading).values()) ** 0.5
    worst = 0.0
    for call in range(CALLS):
        if call and not allowance.allows(1):
            break
        again = _norms(_rerun(s))
        for name, norm in _norms(s.reading).items():
            # Relative to the whole gradient: one that is zero but for rounding may change by all of its norm.
            worst = max(worst, abs(again.get(name, 0.0) - norm) / (total or 1.0))
    tolerance = TOLERANCE_EPSILONS * torch.finfo(_dtype(s)).eps
    return SelfCheck(
        name=NAME,
        status="passed" if worst <= tolerance else "failed",
        value=worst,
        tolerance=tolerance,
        detail="largest change of a gradient's norm from call to call, relative to the norm of all gradients",
    )


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
