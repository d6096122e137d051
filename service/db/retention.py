"""Removal of inspections: hidden first, so that no list or reader finds them, removed later."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import and_, delete, exists, select, update
from sqlalchemy.orm import Session

from gradinspect.contracts.wire.resources import ENDED
from service.db import clock
from service.db.lists import tallies
from service.db.statements import change
from service.db.tables import InspectionRecord, ModelRecord


class Marked(NamedTuple):
    """An inspection whose rows and report can go."""

    inspection_id: str
    report_key: str | None


def mark(session: Session, *, kept_days: float, limit: int = 1000) -> int:
    """Hide inspections that ended more than `kept_days` ago; returns how many. Others are never touched."""
    past = (
        select(InspectionRecord.id)
        .where(
            InspectionRecord.deleted_at.is_(None),
            InspectionRecord.finished_at < clock.now_plus(-86400 * kept_days),
            InspectionRecord.status.in_(ENDED),
        )
        .limit(limit)
    )
    hidden = update(InspectionRecord).where(InspectionRecord.id.in_(past), InspectionRecord.deleted_at.is_(None))
    return change(session, hidden.values(deleted_at=clock.now()))


def hide(session: Session, inspection_id: str, *, tenant: str) -> bool:
    """Hide one inspection that has ended; returns False, and changes nothing, when it has not or is hidden already."""
    ended = update(InspectionRecord).where(
        InspectionRecord.id == inspection_id,
        InspectionRecord.tenant_id == tenant,
        InspectionRecord.status.in_(ENDED),
        InspectionRecord.deleted_at.is_(None),
    )
    return change(session, ended.values(deleted_at=clock.now())) == 1


def marked(session: Session, *, grace_seconds: float, limit: int = 100) -> Sequence[Marked]:
    """Read inspections that were hidden long enough ago that no reader still uses them."""
    found = session.execute(
        select(InspectionRecord.id, InspectionRecord.report_key)
        .where(InspectionRecord.deleted_at < clock.now_plus(-grace_seconds))
        .order_by(InspectionRecord.deleted_at)
        .limit(limit)
    )
    return [Marked(inspection_id, key) for inspection_id, key in found]


def remove(session: Session, inspection_ids: Collection[str]) -> int:
    """Delete hidden inspections with their labels and results; returns how many."""
    hidden = and_(InspectionRecord.id.in_(inspection_ids), InspectionRecord.deleted_at.is_not(None))
    tallies.keep_counted(session, hidden)
    return change(session, delete(InspectionRecord).where(hidden))


def remove_deleted_models(session: Session) -> int:
    """Delete the rows of deleted models that no inspection names any more; returns how many."""
    named = exists().where(
        and_(InspectionRecord.model_id == ModelRecord.id, InspectionRecord.tenant_id == ModelRecord.tenant_id)
    )
    return change(session, delete(ModelRecord).where(ModelRecord.deleted_at.is_not(None), ~named))


def is_report_of_a_row(session: Session, key: str) -> bool:
    """Check whether a row refers to this report, or a running inspection may soon."""
    inspection_id = key.partition(".")[0]
    wanted = exists().where(
        InspectionRecord.id == inspection_id,
        (InspectionRecord.report_key == key) | (InspectionRecord.status == "running"),
    )
    return bool(session.scalar(select(wanted)))
