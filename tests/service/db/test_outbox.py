"""Queued inspections are published at growing intervals until a worker claims them."""

from __future__ import annotations

from sqlalchemy import select, update

from service.db import clock, outbox
from service.db.engine import Database
from service.db.tables import InspectionRecord
from tests.support.specimens import read, submit, take


def due(database: Database) -> list[str]:
    with database.read() as session:
        return [item.inspection_id for item in outbox.due_for_dispatch(session)]


def mark(database: Database, inspection_id: str) -> bool:
    with database.write() as session:
        return outbox.mark_dispatched(session, inspection_id, redispatch_seconds=30)


def test_a_new_inspection_is_due_at_once_and_not_again_once_published(database: Database) -> None:
    inspection_id = submit(database).id
    with database.read() as session:
        assert outbox.due_for_dispatch(session) == [outbox.Due(inspection_id, "cpu")]
    assert mark(database, inspection_id)
    assert due(database) == []
    assert read(database, inspection_id).dispatched_at is not None


def test_an_unclaimed_inspection_is_due_again_after_doubling_waits(database: Database) -> None:
    inspection_id = submit(database).id
    waits = []
    for _ in range(6):
        mark(database, inspection_id)
        with database.read() as session:
            until, now = session.execute(select(InspectionRecord.dispatch_due_at, clock.now())).one()
        waits.append(round((until - now).total_seconds()))
    assert waits == [30, 60, 120, 240, 480, 480]
    with database.write() as session:
        session.execute(update(InspectionRecord).values(dispatch_due_at=clock.now_plus(-1)))
    assert due(database) == [inspection_id]


def test_running_inspections_are_not_published(database: Database) -> None:
    inspection_id = submit(database).id
    take(database, inspection_id)
    assert due(database) == []
    assert not mark(database, inspection_id)


def test_the_longest_due_comes_first_and_a_batch_is_bounded(database: Database) -> None:
    ids = [submit(database).id for _ in range(3)]
    for seconds, inspection_id in zip((-1, -3, -2), ids, strict=True):
        with database.write() as session:
            one = update(InspectionRecord).where(InspectionRecord.id == inspection_id)
            session.execute(one.values(dispatch_due_at=clock.now_plus(seconds)))
    assert due(database) == [ids[1], ids[2], ids[0]]
    with database.read() as session:
        assert [item.inspection_id for item in outbox.due_for_dispatch(session, limit=1)] == [ids[1]]
