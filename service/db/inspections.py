"""Inspections as their callers see them: submitted, read, counted, cancelled. Workers' steps are in `leases`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, cast, get_args

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import MeasuredBy
from gradinspect.contracts.request.data import ArtifactData
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionRequest
from gradinspect.contracts.wire.resources import ENDED, Status
from service.db import artifacts, clock
from service.db.ids import is_id, new_id
from service.db.statements import change
from service.db.tables import InspectionRecord, LabelRecord, ModelRecord

Cancellation = Literal["cancelled", "cancelling", "ended"]


@dataclass(frozen=True)
class QueueState:
    """How many inspections wait and run, and how long the oldest has waited."""

    counts: dict[Status, int]
    oldest_queued_seconds: float | None


def insert(
    session: Session,
    request: InspectionRequest,
    *,
    tenant: str,
    model: ModelRecord,
    policy: Policy,
    queue: str,
    max_queued: int,
) -> InspectionRecord:
    """Add an inspection: queued, never attempted, to be published now.

    Args:
        model: from `models.hold` or `models.register_inline` in this transaction.
        policy: from `policies.resolve`; kept with the inspection.
        queue: from `Settings.queue_for`.

    Raises:
        ProblemError: `too_many_inspections`; `not_found`, the data was not uploaded.
    """
    _refuse_overflow(session, tenant, max_queued)
    data = request.data.artifact if isinstance(request.data, ArtifactData) else None
    if data is not None:
        artifacts.hold(session, data, tenant=tenant)
    record = InspectionRecord(
        id=new_id("insp"),
        tenant_id=tenant,
        model_id=model.id,
        request=request.settings().model_dump(mode="json"),
        labels=dict(request.labels),
        policy=request.policy,
        policy_document=policy.model_dump(mode="json", exclude_unset=True),
        data_artifact=data,
        queue=queue,
    )
    session.add(record)
    session.flush()
    session.add_all(
        LabelRecord(inspection_id=record.id, tenant_id=tenant, key=key, value=value)
        for key, value in request.labels.items()
    )
    session.flush()
    return record


def get(session: Session, inspection_id: str, *, tenant: str) -> InspectionRecord:
    """Read one inspection.

    Raises:
        ProblemError: `not_found`.
    """
    record = session.get(InspectionRecord, (inspection_id, tenant)) if is_id("insp", inspection_id) else None
    if record is None or record.deleted_at is not None:
        raise ProblemError("not_found", f"there is no inspection {inspection_id}")
    return record


def measured_by(session: Session, inspection_ids: Collection[str], *, tenant: str) -> dict[str, MeasuredBy]:
    """Return who measured each of these inspections."""
    chosen = (InspectionRecord.tenant_id == tenant, InspectionRecord.id.in_(inspection_ids))
    found = session.execute(select(InspectionRecord.id, InspectionRecord.measured_by).where(*chosen))
    return {row[0]: cast("MeasuredBy", row[1]) for row in found}


def cancel(session: Session, inspection_id: str, *, tenant: str) -> Cancellation:
    """Cancel one inspection for good.

    A running one keeps its lease token, but is no longer running, so its worker's next heartbeat, progress or result
    changes no row and the worker kills the computation.

    Returns:
        `cancelled`: it was queued, or had been cancelled before; `cancelling`: it was running and its worker has not
        noticed yet; `ended`: it had ended otherwise, and nothing changed.

    Raises:
        ProblemError: `not_found`.
    """
    get(session, inspection_id, tenant=tenant)
    if _cancel_from(session, inspection_id, tenant, "queued"):
        return "cancelled"
    if _cancel_from(session, inspection_id, tenant, "running"):
        return "cancelling"
    # A worker may have claimed or lost it between the two statements; then it is queued again, so retry once.
    if _cancel_from(session, inspection_id, tenant, "queued"):
        return "cancelled"
    record = session.get(InspectionRecord, (inspection_id, tenant), populate_existing=True)
    return "cancelled" if record is not None and record.status == "cancelled" else "ended"


def count_by_status(session: Session, *, tenant: str | None = None) -> QueueState:
    """Count the inspections in each state, of one tenant or of all."""
    query = select(InspectionRecord.status, func.count()).group_by(InspectionRecord.status)
    oldest = select(func.min(InspectionRecord.available_at), clock.now()).where(InspectionRecord.status == "queued")
    if tenant is not None:
        query = query.where(InspectionRecord.tenant_id == tenant)
        oldest = oldest.where(InspectionRecord.tenant_id == tenant)
    found = {row[0]: row[1] for row in session.execute(query)}
    counts = {status: found.get(status, 0) for status in get_args(Status)}
    since, at = session.execute(oldest).one()
    return QueueState(counts=counts, oldest_queued_seconds=None if since is None else (at - since).total_seconds())


def has_ended(record: InspectionRecord) -> bool:
    """Check whether an inspection has ended."""
    return record.status in ENDED


def _cancel_from(session: Session, inspection_id: str, tenant: str, status: Status) -> bool:
    statement = (
        update(InspectionRecord)
        .where(
            InspectionRecord.id == inspection_id,
            InspectionRecord.tenant_id == tenant,
            InspectionRecord.status == status,
        )
        .values(status="cancelled", finished_at=clock.now(), lease_until=None)
    )
    return change(session, statement) == 1


def _refuse_overflow(session: Session, tenant: str, max_queued: int) -> None:
    """Refuse when the queue is full; concurrent requests may exceed the limit by their number."""
    waiting = (
        select(InspectionRecord.id)
        .where(InspectionRecord.tenant_id == tenant, InspectionRecord.status == "queued")
        .limit(max_queued)
    )
    if session.scalar(select(func.count()).select_from(waiting.subquery())) >= max_queued:  # type: ignore[operator]  # count is never null
        detail = f"{max_queued} inspections are queued, which is the limit"
        raise ProblemError("too_many_inspections", detail, retry_after=30)
