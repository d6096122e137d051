"""Queued inspections that have not been published, or whose message may be lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import case, select, update
from sqlalchemy.orm import Session

from service.db import clock, counters
from service.db.tables import InspectionRecord

MOST_TIMES = 16  # a long queue must not be republished constantly: 30 s … 8 min


class Due(NamedTuple):
    """An inspection to publish, and where."""

    inspection_id: str
    queue: str


def due_for_dispatch(session: Session, *, limit: int = 500) -> Sequence[Due]:
    """Read queued inspections whose publication is due, longest due first."""
    found = session.execute(
        select(InspectionRecord.id, InspectionRecord.queue)
        .where(InspectionRecord.status == "queued", InspectionRecord.dispatch_due_at <= clock.now())
        .order_by(InspectionRecord.dispatch_due_at)
        .limit(limit)
    )
    return [Due(inspection_id, queue) for inspection_id, queue in found]


def mark_dispatched(session: Session, inspection_id: str, *, redispatch_seconds: float) -> bool:
    """Record that the broker took the message; it is due again after a wait that doubles each time.

    Returns:
        False when the inspection is not queued any more, which is fine.
    """
    times = case({0: 1, 1: 2, 2: 4, 3: 8}, value=InspectionRecord.dispatches, else_=MOST_TIMES)
    statement = (
        update(InspectionRecord)
        .where(InspectionRecord.id == inspection_id, InspectionRecord.status == "queued")
        .values(
            dispatched_at=clock.now(),
            dispatches=InspectionRecord.dispatches + 1,
            dispatch_due_at=clock.now_plus(redispatch_seconds * times),
        )
        .returning(InspectionRecord.dispatches)
        .execution_options(synchronize_session=False)
    )
    count = session.scalar(statement)
    counters.add(session, "redispatch", int(count is not None and count > 1))
    return count is not None
