"""A training run as a series: what changed over its steps, read from the rows of its inspections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from gradinspect.contracts.request.policy import LEVELS
from gradinspect.contracts.wire.pushes import TrainingStep
from gradinspect.contracts.wire.runs import (
    MAX_DRAWN_STEPS,
    RunEnd,
    RunFinding,
    RunPoint,
    RunResource,
    RunSeries,
    SignalSeries,
)
from service.db import runs
from service.db.runs import RunProgress, StepFinding, StepSignal
from service.db.tables import InspectionRecord, RunRecord


def run_resource(record: RunRecord, progress: RunProgress) -> RunResource:
    """Return a run as callers see it."""
    return RunResource(
        id=record.id,
        name=record.name,
        every=record.every,
        labels=record.labels,
        created_at=record.created_at,
        ended_at=record.ended_at,
        end=RunEnd.model_validate(record.end, strict=False) if record.end is not None else None,
        steps=progress.steps,
        last_step=progress.last_step,
        verdict=progress.verdict,  # type: ignore[arg-type]  # written from a report
        page=f"/runs/{record.id}",
    )


def read_series(session: Session, run_id: str, *, tenant: str) -> RunSeries:
    """Read a run with its series.

    Raises:
        ProblemError: `not_found`.

    Cost: six statements; at most 200 steps of 160 layer calls are read.
    """
    record = runs.get(session, run_id, tenant=tenant)
    progress = runs.progress(session, [run_id], tenant=tenant)[run_id]
    steps = runs.steps(session, run_id, tenant=tenant)
    found = runs.findings(session, [step.id for step in steps], tenant=tenant)
    drawn = evenly(steps, MAX_DRAWN_STEPS)
    signals = runs.signals(session, [step.id for step in drawn], tenant=tenant)
    by_inspection: dict[str, list[StepFinding]] = defaultdict(list)
    for finding in found:
        by_inspection[finding.inspection_id].append(finding)
    return RunSeries(
        **dict(run_resource(record, progress)),
        points=tuple(_point(step, by_inspection[step.id]) for step in steps),
        findings=_findings(steps, by_inspection),
        signals=_signals(drawn, signals),
    )


def evenly(steps: Sequence[InspectionRecord], most: int) -> Sequence[InspectionRecord]:
    """Choose at most `most` of the steps, evenly, with the first and the last."""
    if len(steps) <= most:
        return steps
    return [steps[index * (len(steps) - 1) // (most - 1)] for index in range(most)]


def _point(record: InspectionRecord, findings: Sequence[StepFinding]) -> RunPoint:
    summary = record.summary or {}
    training = record.training
    return RunPoint(
        step=record.step or 0,
        inspection=record.id,
        verdict=record.verdict,  # type: ignore[arg-type]  # written from a report
        loss=summary.get("loss"),
        total_grad_norm=summary.get("total_grad_norm"),
        training=TrainingStep.model_validate(training, strict=False) if training is not None else None,
        rules=tuple(dict.fromkeys(finding.rule for finding in findings if finding.severity != "info")),
    )


@dataclass
class _Appearance:
    """A rule's findings over the steps."""

    first: StepFinding
    severity: str
    steps: list[int] = field(default_factory=list)


def _findings(steps: Sequence[InspectionRecord], by_inspection: dict[str, list[StepFinding]]) -> tuple[RunFinding, ...]:
    seen: dict[str, _Appearance] = {}
    for record in steps:
        for finding in by_inspection[record.id]:
            appearance = seen.setdefault(finding.rule, _Appearance(finding, finding.severity))
            appearance.severity = max(appearance.severity, finding.severity, key=LEVELS.index)
            if not appearance.steps or appearance.steps[-1] != record.step:
                appearance.steps.append(record.step or 0)
    return tuple(
        RunFinding(
            rule=rule,
            severity=appearance.severity,  # type: ignore[arg-type]  # as above
            first_step=appearance.steps[0],
            last_step=appearance.steps[-1],
            steps=len(appearance.steps),
            message=appearance.first.message,
        )
        for rule, appearance in seen.items()
    )


def _signals(steps: Sequence[InspectionRecord], signals: Sequence[StepSignal]) -> SignalSeries:
    """Arrange the signals by step and depth; a layer call has the name that it had at the first step."""
    names: dict[int, str] = {}
    gains: dict[str, dict[int, float | None]] = defaultdict(dict)
    for signal in signals:
        names.setdefault(signal.depth, signal.name)
        gains[signal.inspection_id][signal.depth] = signal.gain
    depths = tuple(sorted(names))
    return SignalSeries(
        layers=tuple(names[depth] for depth in depths),
        depths=depths,
        steps=tuple(record.step or 0 for record in steps),
        gains=tuple(tuple(gains[record.id].get(depth) for depth in depths) for record in steps),
    )
