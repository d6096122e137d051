"""Leases, a worker's right to an inspection: claimed, extended, ended once.

Every step is one UPDATE conditional on the lease and the state it starts from. A worker that lost its lease (it
expired, or the inspection was cancelled) changes no row and gets False, so it cannot end an inspection that another
worker has taken over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Update, and_, exists, select, update
from sqlalchemy.orm import Session

from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import FAILURES, ProblemError
from gradinspect.contracts.report.report import ModelReference, Report
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionSettings
from service.db import clock, counters, models
from service.db.ids import new_token
from service.db.results import writing as results
from service.db.statements import change
from service.db.tables import InspectionRecord, Json, ModelRecord
from service.db.texts import storable

MAX_DETAIL = 4096  # characters kept of an error's detail, which a model may have written


@dataclass(frozen=True)
class Lease:
    """The right of one worker to work on one inspection."""

    inspection_id: str
    token: str


@dataclass(frozen=True)
class Claim:
    """One inspection as its worker gets it: the lease, and what to compute and judge.

    Attributes:
        source: JSON of `contracts.sources`. The child validates it; the worker only passes it on.
        files: artifact ids by the name under which the child gets the bytes: model, weights, data.
    """

    lease: Lease
    tenant: str
    attempt: int
    settings: InspectionSettings
    policy: Policy
    model: ModelReference
    source: Json
    files: dict[str, str]
    queue: str

    @property
    def is_upload(self) -> bool:
        """Whether the model is an uploaded program."""
        return "model" in self.files


def claim(session: Session, inspection_id: str, *, owner: str, lease_seconds: float) -> Claim | None:
    """Take a queued inspection; None when it is not queued (any more, or yet): drop the message.

    Args:
        owner: name of the worker, for operators.
    """
    token = new_token()
    taken = _run(
        session,
        update(InspectionRecord)
        .where(
            InspectionRecord.id == inspection_id,
            InspectionRecord.status == "queued",
            InspectionRecord.available_at <= clock.now(),
        )
        .values(
            status="running",
            stage="starting",
            fraction=0.0,
            attempt=InspectionRecord.attempt + 1,
            lease_token=token,
            lease_owner=owner[:256],
            lease_until=clock.now_plus(lease_seconds),
            started_at=clock.now(),
        ),
    )
    if not taken:
        return None
    lease = Lease(inspection_id, token)
    try:
        return _read_claim(session, lease)
    except (ProblemError, ValidationError) as error:
        # Written by a version with other contracts: it must fail, not be retried for ever.
        fail(session, lease, code="internal", detail=f"the stored request cannot be read any more: {error}")
        return None


def heartbeat(session: Session, lease: Lease, *, lease_seconds: float) -> bool:
    """Extend the lease; False when it is lost: kill the runner and stop."""
    return _run(session, _held(lease).values(lease_until=clock.now_plus(lease_seconds)))


def is_held(session: Session, lease: Lease) -> bool:
    """Check that the lease is still valid. Cheap enough for every second, so that a cancel is noticed at once."""
    return bool(session.scalar(select(exists().where(_holds(lease)))))


def progress(session: Session, lease: Lease, *, stage: str, fraction: float) -> bool:
    """Store the progress of the computation; returns False when the lease is lost."""
    return _run(session, _held(lease).values(stage=storable(stage)[:256], fraction=min(max(fraction, 0.0), 1.0)))


def finish(session: Session, lease: Lease, report: Report, *, report_key: str) -> bool:
    """Store the rows of a report and mark the inspection succeeded; False, with nothing stored, when the lease is lost.

    May be repeated when the connection was lost during the commit and its result is unknown.

    Args:
        report_key: from `store.reports.put`, which has written the file.
    """
    ended = _run(
        session,
        _held(lease).values(
            status="succeeded",
            stage="done",
            fraction=1.0,
            verdict=report.verdict,
            summary=report.summary.model_dump(mode="json"),
            report_key=report_key,
            finished_at=clock.now(),
            lease_until=None,
        ),
    )
    if not ended:
        return _has_finished(session, lease, report_key)
    record = session.scalars(select(InspectionRecord).where(InspectionRecord.id == lease.inspection_id)).one()
    owner = results.RowOwner(inspection_id=record.id, tenant_id=record.tenant_id, model_id=record.model_id)
    results.insert(session, report, owner)
    models.learn_parameters(session, record.model_id, tenant=record.tenant_id, parameters=report.summary.parameters)
    return True


def fail(session: Session, lease: Lease, *, code: str, detail: str) -> bool:
    """End the inspection with a named reason; False when the lease is lost.

    Args:
        code: a key of `FAILURES`.
    """
    if code not in FAILURES:
        raise ValueError(f"unknown failure code {code!r}")
    return _run(
        session,
        _held(lease).values(
            status="failed",
            error_code=code,
            error_detail=storable(detail)[:MAX_DETAIL],
            error_attempt=InspectionRecord.attempt,
            finished_at=clock.now(),
            lease_until=None,
        ),
    )


def release(session: Session, lease: Lease) -> bool:
    """Return the inspection to the queue because this worker is stopping; does not count as an attempt."""
    return _run(
        session,
        _held(lease).values(
            status="queued",
            stage="queued",
            fraction=0.0,
            releases=InspectionRecord.releases + 1,
            lease_token=None,
            lease_owner=None,
            lease_until=None,
            available_at=clock.now(),
            dispatch_due_at=clock.now(),
            dispatches=0,
        ),
    )


@dataclass(frozen=True)
class Expired:
    """The outcome for inspections whose workers were lost."""

    requeued: Sequence[str]
    failed: Sequence[str]


def expire(session: Session, *, max_attempts: int, retry_seconds: float) -> Expired:
    """Expire the leases of workers without a recent heartbeat: requeue their inspections, or mark them failed.

    The wait before the next attempt is `retry_seconds` times the square of the attempts made.
    """
    is_lost = and_(InspectionRecord.status == "running", InspectionRecord.lease_until < clock.now())
    lost = InspectionRecord.attempt - InspectionRecord.releases
    due = clock.now_plus(retry_seconds * lost * lost)
    failed = (
        update(InspectionRecord)
        .where(is_lost, lost >= max_attempts)
        .values(
            status="failed",
            error_code="worker_lost",
            error_detail=f"{max_attempts} workers in turn were lost while they ran this inspection",
            error_attempt=InspectionRecord.attempt,
            finished_at=clock.now(),
            lease_until=None,
        )
    )
    requeued = (
        update(InspectionRecord)
        .where(is_lost, lost < max_attempts)
        .values(
            status="queued",
            stage="queued",
            fraction=0.0,
            lease_token=None,
            lease_owner=None,
            lease_until=None,
            available_at=due,
            dispatch_due_at=due,
            dispatches=0,
        )
    )
    expired = Expired(failed=_changed_ids(session, failed), requeued=_changed_ids(session, requeued))
    counters.add(session, "lease_expired", len(expired.failed) + len(expired.requeued))
    return expired


def _holds(lease: Lease) -> ColumnElement[bool]:
    return and_(
        InspectionRecord.id == lease.inspection_id,
        InspectionRecord.lease_token == lease.token,
        InspectionRecord.status == "running",
    )


def _has_finished(session: Session, lease: Lease, report_key: str) -> bool:
    mine = and_(
        InspectionRecord.id == lease.inspection_id,
        InspectionRecord.lease_token == lease.token,
        InspectionRecord.report_key == report_key,
    )
    return bool(session.scalar(select(exists().where(mine))))


def _held(lease: Lease) -> Update:
    return update(InspectionRecord).where(_holds(lease))


def _run(session: Session, statement: Update) -> bool:
    return change(session, statement) == 1


def _changed_ids(session: Session, statement: Update) -> Sequence[str]:
    unsynchronized = statement.returning(InspectionRecord.id).execution_options(synchronize_session=False)
    return session.scalars(unsynchronized).all()


def _read_claim(session: Session, lease: Lease) -> Claim:
    inspection, model = session.execute(
        select(InspectionRecord, ModelRecord)
        .join(
            ModelRecord,
            and_(ModelRecord.id == InspectionRecord.model_id, ModelRecord.tenant_id == InspectionRecord.tenant_id),
        )
        .where(InspectionRecord.id == lease.inspection_id)
    ).one()
    files = {"model": model.file, "weights": model.weights, "data": inspection.data_artifact}
    return Claim(
        lease=lease,
        tenant=inspection.tenant_id,
        attempt=inspection.attempt,
        settings=from_python(InspectionSettings, inspection.request),
        policy=Policy.model_validate_json(json.dumps(inspection.policy_document)),
        model=ModelReference.model_validate(
            {"id": model.id, "name": model.name, "kind": model.kind, "digest": model.digest}
        ),
        source=model.source(),
        files={name: artifact for name, artifact in files.items() if artifact is not None},
        queue=inspection.queue,
    )
