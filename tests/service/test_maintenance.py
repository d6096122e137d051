"""The maintainer: expired leases, unpublished inspections, and two maintainers at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import text, update

from service.db import clock, inspections, outbox
from service.db.engine import MAINTENANCE_LOCK, Database, try_lock
from service.db.tables import InspectionRecord
from service.lifecycle.dispatch import Dispatcher
from service.lifecycle.maintenance import Maintainer, Round
from service.settings import Settings
from service.store.storage import Store
from tests.support.queueing import wait_until
from tests.support.specimens import TENANT, end_well, read, submit, take


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"retry_seconds": 1.0, "maintain_interval_seconds": 0.05})


@pytest.fixture
def maintainer(settings: Settings) -> Iterator[Maintainer]:
    made = Maintainer(settings)
    yield made
    made.close()


def messages(settings: Settings) -> int:
    dispatcher = Dispatcher(settings.broker_url)
    try:
        return dispatcher.depths(["cpu"])["cpu"]
    finally:
        dispatcher.close()


def test_an_inspection_that_was_never_published_is_published(
    maintainer: Maintainer, database: Database, settings: Settings
) -> None:
    submit(database)
    assert maintainer.go_round() == Round(published=1)
    assert messages(settings) == 1
    assert maintainer.go_round() == Round(), "it is due again later"
    assert messages(settings) == 1


def test_an_inspection_of_a_lost_worker_waits_and_is_published_again(
    maintainer: Maintainer, database: Database
) -> None:
    lost = take(database, submit(database).id, lease_seconds=-1.0).lease.inspection_id
    assert maintainer.go_round() == Round(requeued=1)
    assert read(database, lost).status == "queued"
    with database.write() as session:
        session.execute(update(InspectionRecord).values(dispatch_due_at=clock.now()))
    assert maintainer.go_round() == Round(published=1)


def test_the_third_lost_worker_ends_an_inspection(maintainer: Maintainer, database: Database) -> None:
    queued = submit(database)
    for _ in range(3):
        with database.write() as session:
            session.execute(update(InspectionRecord).values(available_at=clock.now()))
        take(database, queued.id, lease_seconds=-1.0)
        done = maintainer.go_round()
    assert done == Round(failed=1)
    ended = read(database, queued.id)
    assert (ended.status, ended.error_code, ended.error_attempt) == ("failed", "worker_lost", 3)
    assert maintainer.go_round() == Round()


def test_running_and_ended_inspections_are_left_alone(maintainer: Maintainer, database: Database) -> None:
    take(database, submit(database).id)
    end_well(database)
    cancelled = submit(database)
    with database.write() as session:
        inspections.cancel(session, cancelled.id, tenant=TENANT)
    assert maintainer.go_round() == Round()


def test_an_unavailable_broker_loses_no_inspection(database: Database, settings: Settings) -> None:
    away = Maintainer(settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"}))
    submit(database)
    assert away.go_round() == Round()
    away.close()
    with database.read() as session:
        assert len(outbox.due_for_dispatch(session)) == 1


def test_old_inspections_are_hidden_then_removed(database: Database, settings: Settings, store: Store) -> None:
    kept_a_day = Maintainer(settings.model_copy(update={"retention_days": 1}))
    old = end_well(database)
    with database.write() as session:
        session.execute(update(InspectionRecord).values(finished_at=clock.now_plus(-2 * 86400)))
    kept_a_day.go_round()
    kept_a_day.close()
    with database.read() as session:
        record = session.get(InspectionRecord, (old, TENANT))
    assert record is not None
    assert record.deleted_at is not None


def test_a_second_maintainer_leaves_the_work_to_the_first(settings: Settings, postgresql_url: str) -> None:
    on_postgresql = settings.model_copy(update={"database_url": postgresql_url})
    database = Database(postgresql_url)
    submit(database)
    second = Maintainer(on_postgresql)
    with database.write() as first:
        assert try_lock(first, MAINTENANCE_LOCK)
        assert second.go_round() == Round()
    assert second.go_round() == Round(published=1)
    second.close()
    database.dispose()


def test_the_maintainer_survives_an_unavailable_database_and_stops_on_request(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    maintainer = Maintainer(settings)
    go_round = maintainer.go_round

    def go_badly_first() -> Round:
        rounds.append(1)
        if len(rounds) == 1:
            with maintainer._database.read() as session:
                session.execute(text("SELECT * FROM no_such_table_because_the_disk_is_gone"))
        return go_round()

    monkeypatch.setattr(maintainer, "go_round", go_badly_first)
    if not database.is_sqlite:
        monkeypatch.setattr("service.lifecycle.maintenance.UNAVAILABLE", (Exception,))
    stop = threading.Event()
    running = threading.Thread(target=maintainer.run, args=(stop,))
    running.start()
    submit(database)
    wait_until(lambda: messages(settings) > 0, "the next round publishes")
    stop.set()
    running.join(timeout=10)
    assert not running.is_alive()
