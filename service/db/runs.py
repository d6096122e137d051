"""Training runs, and their steps: inspections whose reports clients pushed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, select, tuple_, update
from sqlalchemy.orm import Session

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.wire.runs import MAX_DRAWN_LAYERS, MAX_DRAWN_STEPS, MAX_STEPS, RunEnd, RunRequest
from service.db import clock
from service.db.ids import is_id, new_id
from service.db.results.tables import FindingRecord, LayerRecord
from service.db.statements import change
from service.db.tables import InspectionRecord, RunRecord


class RunProgress(NamedTuple):
    """How far a run has come."""

    steps: int
    last_step: int | None
    verdict: str | None


class StepSignal(NamedTuple):
    """The backward signal of one layer call at one step, relative to the last layer call."""

    inspection_id: str
    depth: int
    name: str
    gain: float | None


class StepFinding(NamedTuple):
    """One finding of one step."""

    inspection_id: str
    rule: str
    severity: str
    message: str


def insert(session: Session, request: RunRequest, *, tenant: str) -> RunRecord:
    """Add a run without steps."""
    record = RunRecord(
        id=new_id("run"), tenant_id=tenant, name=request.name, every=request.every, labels=dict(request.labels)
    )
    session.add(record)
    session.flush()
    session.refresh(record)
    return record


def get(session: Session, run_id: str, *, tenant: str) -> RunRecord:
    """Read one run.

    Raises:
        ProblemError: `not_found`.
    """
    return _present(session.get(RunRecord, (run_id, tenant)) if is_id("run", run_id) else None, run_id)


def hold_open(session: Session, run_id: str, *, tenant: str) -> RunRecord:
    """Read a run that can take one more step, and keep others from ending or deleting it meanwhile.

    Raises:
        ProblemError: `not_found`; `conflict`, it has ended or is full.
    """
    key = (run_id, tenant)
    record = _present(session.get(RunRecord, key, with_for_update=True, populate_existing=True), run_id)
    if record.ended_at is not None:
        raise ProblemError("conflict", f"the run {run_id} has ended")
    if progress(session, [run_id], tenant=tenant)[run_id].steps >= MAX_STEPS:
        raise ProblemError("conflict", f"the run {run_id} has {MAX_STEPS} steps, which is the limit; begin another one")
    return record


def end(session: Session, run_id: str, how: RunEnd, *, tenant: str) -> RunRecord:
    """End a run; to repeat it with the same words changes nothing.

    Raises:
        ProblemError: `not_found`; `conflict`, it has ended otherwise.
    """
    get(session, run_id, tenant=tenant)
    document = how.model_dump(mode="json", exclude_none=True)
    is_open = (RunRecord.id == run_id, RunRecord.tenant_id == tenant, RunRecord.ended_at.is_(None))
    change(session, update(RunRecord).where(*is_open).values(end=document, ended_at=clock.now()))
    record = session.get(RunRecord, (run_id, tenant), populate_existing=True)
    record = _present(record, run_id)
    if record.end != document:
        raise ProblemError("conflict", f"the run {run_id} has ended: {(record.end or {}).get('outcome')}")
    return record


def delete(session: Session, run_id: str, *, tenant: str) -> None:
    """Delete a run and hide its inspections, which retention then removes with their reports.

    Raises:
        ProblemError: `not_found`.
    """
    record = _present(session.get(RunRecord, (run_id, tenant), with_for_update=True), run_id)
    hidden = update(InspectionRecord).where(*_of_run([run_id], tenant))
    change(session, hidden.values(deleted_at=clock.now()))
    session.delete(record)


def progress(session: Session, run_ids: Sequence[str], *, tenant: str) -> dict[str, RunProgress]:
    """Count the steps of runs.

    Cost: two statements.
    """
    counts = (
        select(InspectionRecord.run_id, func.count(), func.max(InspectionRecord.step))
        .where(*_of_run(run_ids, tenant))
        .group_by(InspectionRecord.run_id)
    )
    found = {run_id: (count, last) for run_id, count, last in session.execute(counts)}
    lasts = [(run_id, last) for run_id, (_, last) in found.items()]
    verdicts = select(InspectionRecord.run_id, InspectionRecord.verdict).where(
        *_of_run(run_ids, tenant), tuple_(InspectionRecord.run_id, InspectionRecord.step).in_(lasts)
    )
    of_last = dict(session.execute(verdicts).all()) if lasts else {}
    return {run_id: RunProgress(*found.get(run_id, (0, None)), of_last.get(run_id)) for run_id in run_ids}


def steps(session: Session, run_id: str, *, tenant: str) -> Sequence[InspectionRecord]:
    """Read the inspections of a run, in the order of steps."""
    rows = select(InspectionRecord).where(*_of_run([run_id], tenant)).order_by(InspectionRecord.step)
    return session.scalars(rows).all()


def findings(session: Session, inspection_ids: Sequence[str], *, tenant: str) -> Sequence[StepFinding]:
    """Read the findings of a run's inspections, those of one inspection in the report's order."""
    rows = (
        select(FindingRecord.inspection_id, FindingRecord.rule, FindingRecord.severity, FindingRecord.message)
        .where(FindingRecord.tenant_id == tenant, FindingRecord.inspection_id.in_(inspection_ids))
        .order_by(FindingRecord.inspection_id, FindingRecord.position)
    )
    return [StepFinding(*row) for row in session.execute(rows)]


def signals(session: Session, inspection_ids: Sequence[str], *, tenant: str) -> Sequence[StepSignal]:
    """Read the backward signal of evenly chosen layer calls at these steps, input first.

    Args:
        inspection_ids: at most `MAX_DRAWN_STEPS`.

    Cost: two statements, and at most `MAX_DRAWN_LAYERS` rows an inspection.
    """
    assert len(inspection_ids) <= MAX_DRAWN_STEPS
    mine = (LayerRecord.tenant_id == tenant, LayerRecord.inspection_id.in_(inspection_ids))
    deepest = session.scalar(select(func.max(LayerRecord.position)).where(*mine))
    every = (deepest or 0) // MAX_DRAWN_LAYERS + 1
    rows = (
        select(LayerRecord.inspection_id, LayerRecord.position, LayerRecord.name, LayerRecord.cumulative_backward_gain)
        .where(*mine, LayerRecord.position % every == 0)
        .order_by(LayerRecord.inspection_id, LayerRecord.position)
    )
    return [StepSignal(*row) for row in session.execute(rows)]


def _of_run(run_ids: Sequence[str], tenant: str) -> tuple[ColumnElement[bool], ...]:
    return (
        InspectionRecord.tenant_id == tenant,
        InspectionRecord.run_id.in_(run_ids),
        InspectionRecord.deleted_at.is_(None),
    )


def _present(record: RunRecord | None, run_id: str) -> RunRecord:
    if record is None:
        raise ProblemError("not_found", f"there is no run {run_id}")
    return record
