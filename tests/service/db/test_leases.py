"""Leases: claimed once, extended, lost for good."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pytest
from sqlalchemy import func, select, update

from gradinspect.contracts.report.report import Report
from service.db import clock, inspections, leases
from service.db.engine import Database
from service.db.results.tables import LayerRecord
from service.db.tables import InspectionRecord, ModelRecord
from tests.support.specimens import TENANT, end_well, layer, make_report, read, submit, take

ResultT = TypeVar("ResultT")


def together(work: Callable[[int], ResultT], count: int) -> list[ResultT]:
    """Run `work` in several threads that start at the same moment."""
    barrier, results, failures = threading.Barrier(count), [], []

    def run(number: int) -> None:
        barrier.wait()
        try:
            results.append(work(number))
        except BaseException as error:  # noqa: BLE001  # shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    return results


def expire_lease(database: Database, inspection_id: str) -> None:
    """Expire the lease, as if its worker had been suspended."""
    with database.write() as session:
        past = update(InspectionRecord).where(InspectionRecord.id == inspection_id)
        session.execute(past.values(lease_until=clock.now_plus(-1)))


def make_available(database: Database, inspection_id: str) -> None:
    """End the backoff."""
    with database.write() as session:
        past = update(InspectionRecord).where(InspectionRecord.id == inspection_id)
        session.execute(past.values(available_at=clock.now_plus(-1)))


def expire(database: Database, *, max_attempts: int = 3) -> leases.Expired:
    with database.write() as session:
        return leases.expire(session, max_attempts=max_attempts, retry_seconds=5)


def test_a_claim_has_everything_that_a_worker_needs(database: Database) -> None:
    inspection_id = submit(database, loss="mse", seed=7).id
    claim = take(database, inspection_id, owner="host:1")
    assert (claim.lease.inspection_id, claim.attempt, claim.tenant, claim.queue) == (inspection_id, 1, TENANT, "cpu")
    assert (claim.settings.loss, claim.settings.seed) == ("mse", 7)
    assert claim.source["kind"] == "spec"
    assert claim.source["spec"]["input"]["shape"] == [4]
    assert claim.files == {}
    assert claim.policy.name == "default"
    assert claim.model.kind == "spec"
    record = read(database, inspection_id)
    assert (record.status, record.lease_owner, record.attempt) == ("running", "host:1", 1)
    assert record.lease_until is not None
    assert record.started_at is not None
    assert 59 <= (record.lease_until - record.started_at).total_seconds() <= 61


def test_fifty_deliveries_of_one_message_are_one_claim(database: Database) -> None:
    inspection_id = submit(database).id

    def claim(number: int) -> leases.Claim | None:
        with database.write() as session:
            return leases.claim(session, inspection_id, owner=str(number), lease_seconds=60)

    claims = [found for found in together(claim, 50) if found is not None]
    assert len(claims) == 1
    assert read(database, inspection_id).attempt == 1


def test_a_heartbeat_extends_the_lease(database: Database) -> None:
    inspection_id = submit(database).id
    claim = take(database, inspection_id, lease_seconds=1)
    with database.write() as session:
        assert leases.heartbeat(session, claim.lease, lease_seconds=3600)
    assert expire(database) == leases.Expired(requeued=[], failed=[])
    with database.read() as session:
        assert leases.is_held(session, claim.lease)


def test_progress_is_written_under_the_lease_only(database: Database) -> None:
    inspection_id = submit(database).id
    claim = take(database, inspection_id)
    with database.write() as session:
        assert leases.progress(session, claim.lease, stage="backward", fraction=1.5)
        assert not leases.progress(session, leases.Lease(inspection_id, "other"), stage="forward", fraction=0.1)
    record = read(database, inspection_id)
    assert (record.stage, record.fraction) == ("backward", 1.0)


def test_a_finished_inspection_has_its_verdict_summary_and_rows(database: Database) -> None:
    report = make_report((layer(0), layer(1)), verdict="warn", parameter_count=123)
    inspection_id = end_well(database, report=report)
    record = read(database, inspection_id)
    assert (record.status, record.verdict, record.stage, record.fraction) == ("succeeded", "warn", "done", 1.0)
    assert record.summary == report.summary.model_dump(mode="json")
    assert record.report_key == f"{inspection_id}.1"
    assert record.finished_at is not None
    assert count_layers(database, inspection_id) == 2


def test_a_repeated_finish_is_true_and_stores_nothing_twice(database: Database) -> None:
    inspection_id = submit(database).id
    claim = take(database, inspection_id)
    for _ in range(2):
        with database.write() as session:
            assert leases.finish(session, claim.lease, make_report((layer(),)), report_key="key")
    assert count_layers(database, inspection_id) == 1


def test_the_first_finish_stores_the_models_number_of_parameters(database: Database) -> None:
    inspection_id = submit(database).id
    with database.write() as session:
        session.execute(update(ModelRecord).values(parameters=None))
    claim = take(database, inspection_id)
    with database.write() as session:
        leases.finish(session, claim.lease, make_report(parameter_count=42), report_key="key")
    with database.read() as session:
        assert session.scalars(select(ModelRecord.parameters)).all() == [42]


def test_a_failure_is_stored_with_its_attempt_and_bounded(database: Database) -> None:
    inspection_id = submit(database).id
    claim = take(database, inspection_id)
    with database.write() as session:
        assert leases.fail(session, claim.lease, code="memory_limit", detail="x\x00" * 10_000)
        assert not leases.fail(session, claim.lease, code="internal", detail="again")
    record = read(database, inspection_id)
    assert (record.status, record.error_code, record.error_attempt) == ("failed", "memory_limit", 1)
    assert record.error_detail is not None
    assert len(record.error_detail) == leases.MAX_DETAIL


def test_only_known_failures_can_be_stored(database: Database) -> None:
    with database.write() as session, pytest.raises(ValueError, match="unknown failure code"):
        leases.fail(session, leases.Lease("insp", "token"), code="bad_luck", detail="")


def test_the_inspection_of_a_lost_worker_is_requeued_with_a_delay(database: Database) -> None:
    inspection_id = submit(database).id
    take(database, inspection_id)
    expire_lease(database, inspection_id)
    assert expire(database).requeued == [inspection_id]
    record = read(database, inspection_id)
    assert (record.status, record.attempt, record.lease_token) == ("queued", 1, None)
    with database.write() as session:
        assert leases.claim(session, inspection_id, owner="early", lease_seconds=60) is None
    make_available(database, inspection_id)
    assert take(database, inspection_id).attempt == 2


def test_the_wait_grows_with_the_attempts(database: Database) -> None:
    inspection_id = submit(database).id
    waits = []
    for _ in range(2):
        take(database, inspection_id)
        expire_lease(database, inspection_id)
        expire(database)
        with database.read() as session:
            due, now = session.execute(select(InspectionRecord.dispatch_due_at, clock.now())).one()
        waits.append(round((due - now).total_seconds()))
        make_available(database, inspection_id)
    assert waits == [5, 20]


def test_the_third_lost_worker_fails_the_inspection(database: Database) -> None:
    inspection_id = submit(database).id
    for _ in range(3):
        make_available(database, inspection_id)
        take(database, inspection_id)
        expire_lease(database, inspection_id)
        expired = expire(database)
    assert expired == leases.Expired(requeued=[], failed=[inspection_id])
    record = read(database, inspection_id)
    assert (record.status, record.error_code, record.error_attempt) == ("failed", "worker_lost", 3)


def test_a_released_inspection_is_available_at_once_and_keeps_its_attempts(database: Database) -> None:
    inspection_id = submit(database).id
    for _ in range(5):
        claim = take(database, inspection_id)
        with database.write() as session:
            assert leases.release(session, claim.lease)
    claim = take(database, inspection_id)
    assert claim.attempt == 6
    expire_lease(database, inspection_id)
    assert expire(database).requeued == [inspection_id]


def test_a_worker_with_a_lost_lease_cannot_end_an_inspection_taken_over_by_another(database: Database) -> None:
    inspection_id = submit(database).id
    zombie = take(database, inspection_id, owner="zombie")
    expire_lease(database, inspection_id)
    expire(database)
    make_available(database, inspection_id)
    heir = take(database, inspection_id, owner="heir")
    with database.write() as session:
        assert not leases.finish(session, zombie.lease, make_report((layer(), layer(1))), report_key="zombie")
        assert not leases.fail(session, zombie.lease, code="internal", detail="")
        assert not leases.heartbeat(session, zombie.lease, lease_seconds=60)
    with database.write() as session:
        assert leases.finish(session, heir.lease, make_report((layer(),)), report_key="heir")
    assert read(database, inspection_id).report_key == "heir"
    assert count_layers(database, inspection_id) == 1


def test_a_worker_with_an_expired_lease_may_finish_until_another_takes_over(database: Database) -> None:
    inspection_id = submit(database).id
    claim = take(database, inspection_id)
    expire_lease(database, inspection_id)
    with database.write() as session:
        assert leases.finish(session, claim.lease, make_report(), report_key="late")
    assert expire(database) == leases.Expired(requeued=[], failed=[])


def test_maintainers_that_expire_together_requeue_each_inspection_once(database: Database) -> None:
    ids = [submit(database).id for _ in range(20)]
    for inspection_id in ids:
        take(database, inspection_id)
        expire_lease(database, inspection_id)
    requeued = [found for expired in together(lambda _: expire(database), 4) for found in expired.requeued]
    assert sorted(requeued) == sorted(ids)


def test_of_a_concurrent_cancel_and_finish_exactly_one_succeeds(database: Database) -> None:
    report = make_report((layer(),))
    for _ in range(10):
        inspection_id = submit(database).id
        claim = take(database, inspection_id)
        outcome = together(partial(_finish_or_cancel, database, claim, report), 2)
        assert sorted(map(str, outcome)) in (["True", "ended"], ["False", "cancelling"])
        record = read(database, inspection_id)
        has_won = "True" in map(str, outcome)
        assert record.status == ("succeeded" if has_won else "cancelled")
        assert count_layers(database, inspection_id) == (1 if has_won else 0)


def test_an_inspection_whose_request_can_no_longer_be_read_fails(database: Database) -> None:
    inspection_id = submit(database).id
    with database.write() as session:
        session.execute(update(InspectionRecord).values(request={"loss": "of an older version"}))
    with database.write() as session:
        assert leases.claim(session, inspection_id, owner="worker", lease_seconds=60) is None
    record = read(database, inspection_id)
    assert (record.status, record.error_code) == ("failed", "internal")


def count_layers(database: Database, inspection_id: str) -> int:
    with database.read() as session:
        found = session.scalar(select(func.count()).where(LayerRecord.inspection_id == inspection_id))
    assert found is not None
    return found


def _finish_or_cancel(database: Database, claim: leases.Claim, report: Report, number: int) -> object:
    with database.write() as session:
        if number == 0:
            return leases.finish(session, claim.lease, report, report_key="key")
        return inspections.cancel(session, claim.lease.inspection_id, tenant=TENANT)
