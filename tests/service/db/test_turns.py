"""Turns: tenants share the workers, however many inspections each has queued."""

from __future__ import annotations

from sqlalchemy import insert, select, update

from service.db import clock, leases, turns
from service.db.engine import Database
from service.db.leases import Claim
from service.db.tables import InspectionRecord
from tests.support.specimens import make_report, submit


def claim(database: Database, message: str, *, max_running: int | None = None) -> Claim | None:
    with database.write() as session:
        return turns.claim_next(
            session, message, queues=["cpu"], owner="worker", lease_seconds=60, max_running=max_running
        )


def end(database: Database, held: Claim) -> None:
    with database.write() as session:
        assert leases.finish(session, held.lease, make_report(), report_key=f"{held.lease.inspection_id}.1")


def queue_many(database: Database, count: int) -> str:
    """Queue many inspections of the tenant `flood`, and return the first one."""
    first = submit(database, tenant="flood")
    with database.write() as session:
        row = dict(session.execute(select(InspectionRecord.__table__)).mappings().one())
        session.execute(
            insert(InspectionRecord), [row | {"id": f"{first.id[:-6]}{number:06d}"} for number in range(count - 1)]
        )
    return first.id


def test_ten_thousand_inspections_of_one_tenant_do_not_hold_up_another_tenants_one(database: Database) -> None:
    flood = queue_many(database, 10_000)
    running = [claim(database, flood) for _ in range(2)]  # two slots are busy with them
    small = submit(database, tenant="small").id
    assert running[0] is not None
    end(database, running[0])
    served = claim(database, flood)  # any message of the queue
    assert served is not None
    assert (served.tenant, served.lease.inspection_id) == ("small", small)
    after = claim(database, small)
    assert after is not None
    assert after.tenant == "flood"


def test_one_slot_serves_tenants_in_turn(database: Database) -> None:
    for _ in range(3):
        for tenant in ("a", "b"):
            message = submit(database, tenant=tenant).id
    order = []
    for number in range(6):
        held = claim(database, message)
        assert held is not None
        order.append(held.tenant)
        end(database, held)
        with database.write() as session:  # starts within one millisecond would be equal
            mine = update(InspectionRecord).where(InspectionRecord.id == held.lease.inspection_id)
            session.execute(mine.values(started_at=clock.now_plus(number - 100)))
    assert order in (["a", "b"] * 3, ["b", "a"] * 3)


def test_a_tenant_is_served_oldest_first(database: Database) -> None:
    ids = [submit(database).id for _ in range(3)]
    held = [claim(database, ids[-1]) for _ in range(3)]
    assert [one.lease.inspection_id for one in held if one is not None] == ids
    assert claim(database, ids[0]) is None


def test_a_tenant_at_its_limit_waits_and_others_are_served(database: Database) -> None:
    message = submit(database, tenant="a").id
    waiting = submit(database, tenant="a").id
    assert claim(database, message, max_running=1) is not None
    assert claim(database, message, max_running=1) is None
    with database.write() as session:
        session.execute(update(InspectionRecord).values(dispatch_due_at=clock.now_plus(600)))
        turns.publish_again_soon(session, message)  # it runs, so the one that waits is published
        due = session.scalar(select(InspectionRecord.id).where(InspectionRecord.dispatch_due_at < clock.now_plus(60)))
    assert due == waiting
    submit(database, tenant="b")
    other = claim(database, message, max_running=1)
    assert other is not None
    assert other.tenant == "b"


def test_the_message_of_a_deleted_inspection_serves_the_queues_of_the_worker(database: Database) -> None:
    queued = submit(database).id
    held = claim(database, "insp_gone")
    assert held is not None
    assert held.lease.inspection_id == queued


def test_an_inspection_that_backs_off_has_no_turn(database: Database) -> None:
    queued = submit(database).id
    with database.write() as session:
        session.execute(update(InspectionRecord).values(available_at=clock.now_plus(60)))
    assert claim(database, queued) is None
