"""The prescription of one inspection: made after the sections, from what they and the rules say."""

from __future__ import annotations

from collections.abc import Callable

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import Measurements, ModelReference
from gradinspect.contracts.report.trial import Prescription
from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.contracts.request.request import TrialRequest
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.probes.prescription.patient import Patient
from gradinspect.probes.prescription.prescribe import prescribe
from gradinspect.probes.trial.section import copies_bytes
from gradinspect.probes.trial.task import Task
from gradinspect.probes.verify.budget import ProbeBudget
from gradinspect.rules import judge

SHARE = 0.4  # of the seconds that are left; chosen: passes over further seeds and the report still fit
COPIES = 1.25  # of what a trial copies: the changed model itself comes in addition


def prescribed(s: SectionInput, measured: Measurements, progress: Callable[[float], None]) -> Prescription | None:
    """Prescribe for a model that the rules, with the trial, find fault with.

    Args:
        s: the first pass, with all the time that is left.
        measured: of it and its sections.
        progress: called with the completed fraction.

    Returns:
        None where no trial was asked for.
    """
    settings = s.settings
    if settings.trial == "off" or measured.trial is None:
        return None
    report = judge(
        measured, policy=DEFAULT_POLICY, model=ModelReference(kind="module"), inspection=None, settings=settings
    )
    if report.verdict == "pass":
        has_learned = measured.trial.verdict == "learns"
        reason = "the model learns as it is" if has_learned else "no rule finds fault; the trial did not see it learn"
        return Prescription(outcome="not_needed", reason=reason)
    needed = COPIES * copies_bytes(s)
    if s.memory_left_bytes is not None and needed > s.memory_left_bytes:
        return Prescription(
            outcome="not_tried", reason=f"memory: it needs {needed / 2**20:,.0f} MiB for a changed copy"
        )
    requested = settings.trial if isinstance(settings.trial, TrialRequest) else TrialRequest()
    seconds = min(requested.seconds, SHARE * max(s.budget.seconds_left, 0.0))
    try:
        return prescribe(
            Patient.of(s, Task.of(s)), measured, report.findings, measured.trial,
            declared=settings.optimizer, budget=ProbeBudget(max_steps=requested.steps, max_seconds=seconds),
            progress=progress,
        )  # fmt: skip
    except InspectionError as error:
        return Prescription(outcome="not_tried", reason=error.detail)
    except (RuntimeError, MemoryError) as error:
        reason = "memory: it ran out" if out_of_memory(error) else f"torch refused: {error}"
        return Prescription(outcome="not_tried", reason=reason[:500])
