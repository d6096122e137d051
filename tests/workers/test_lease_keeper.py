"""A lease is extended, and its loss is noticed."""

from __future__ import annotations

from threading import Event
from time import monotonic, sleep
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from service.db import inspections, leases
from service.db.engine import Database
from tests.support.specimens import TENANT, read, submit, take
from workers.supervisor.lease_keeper import LeaseKeeper


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def keeper(database: Database, *, heartbeat_seconds: float = 0.05) -> LeaseKeeper:
    lease = take(database, submit(database).id, lease_seconds=2.0).lease
    return LeaseKeeper(database, lease, lease_seconds=60.0, heartbeat_seconds=heartbeat_seconds)


def wait_until_lost(kept: LeaseKeeper) -> None:
    deadline = monotonic() + 20
    while not kept.is_lost():
        assert monotonic() < deadline, "the loss was not noticed"
        sleep(0.01)


def test_heartbeats_extend_the_lease(database: Database) -> None:
    claim = take(database, submit(database).id, lease_seconds=2.0)
    before = read(database, claim.lease.inspection_id).lease_until
    with LeaseKeeper(database, claim.lease, lease_seconds=600.0, heartbeat_seconds=0.05) as kept:
        deadline = monotonic() + 20
        while read(database, claim.lease.inspection_id).lease_until == before:
            assert monotonic() < deadline
            sleep(0.01)
        assert not kept.is_lost()


def test_a_cancel_is_noticed_between_heartbeats(database: Database) -> None:
    with keeper(database, heartbeat_seconds=3600.0) as kept:
        with database.write() as session:
            inspections.cancel(session, kept._lease.inspection_id, tenant=TENANT)
        wait_until_lost(kept)


def test_an_inspection_that_another_worker_took_over_is_lost(database: Database) -> None:
    with keeper(database, heartbeat_seconds=3600.0) as kept:
        with database.write() as session:
            leases.heartbeat(session, kept._lease, lease_seconds=-1.0)
            leases.expire(session, max_attempts=3, retry_seconds=0.0)
        take(database, kept._lease.inspection_id)
        wait_until_lost(kept)


def test_three_heartbeats_without_a_database_lose_the_lease(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = []

    def away(*_: object, **__: object) -> bool:
        beats.append(1)
        raise OperationalError("UPDATE", {}, Exception("server closed the connection"))

    monkeypatch.setattr(leases, "heartbeat", away)
    monkeypatch.setattr(leases, "is_held", away)
    with keeper(database) as kept:
        wait_until_lost(kept)
    assert len(beats) >= 3


def test_a_database_that_neither_answers_nor_fails_loses_the_lease_when_it_expires(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Event()

    def silent(*_: object, **__: object) -> bool:
        return answers.wait(60)

    monkeypatch.setattr(leases, "heartbeat", silent)
    monkeypatch.setattr(leases, "is_held", silent)
    lease = take(database, submit(database).id, lease_seconds=1.0).lease
    with LeaseKeeper(database, lease, lease_seconds=1.0, heartbeat_seconds=0.05) as kept:
        assert not kept.is_lost()
        wait_until_lost(kept)
        answers.set()


def test_a_short_outage_of_the_database_does_not_lose_the_lease(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat, failures = leases.heartbeat, [1, 1]

    def away_twice(*arguments: Any, **keywords: Any) -> bool:  # Any: passed on as they came
        if failures:
            failures.pop()
            raise OperationalError("UPDATE", {}, Exception("server closed the connection"))
        return beat(*arguments, **keywords)

    monkeypatch.setattr(leases, "heartbeat", away_twice)
    with keeper(database) as kept:
        before = read(database, kept._lease.inspection_id).lease_until
        deadline = monotonic() + 20
        while read(database, kept._lease.inspection_id).lease_until == before:
            assert monotonic() < deadline
            sleep(0.01)
        assert not kept.is_lost()
