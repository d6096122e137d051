"""A broker that restarts without its data, and a database that is killed at every step of an inspection."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from time import sleep

import pytest

from service.db import migrate
from service.db.engine import UNAVAILABLE
from tests.support.fleet import MakeFleet
from tests.support.queueing import queue_spec, wait_until
from tests.support.servers import PostgresServer, ValkeyServer
from tests.support.specimens import read

WIDE = {"input": {"shape": [512]}, "layers": [{"type": "Linear", "out_features": 512}, {"type": "ReLU"}] * 20}


@pytest.fixture
def own_broker() -> Iterator[ValkeyServer]:
    server = ValkeyServer(is_durable=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_database() -> Iterator[PostgresServer]:
    server = PostgresServer(is_durable=True)
    server.start()
    yield server
    server.stop()


def test_a_broker_that_restarts_with_or_without_its_data_loses_no_inspection(
    make_fleet: MakeFleet, own_broker: ValkeyServer
) -> None:
    fleet = make_fleet(broker_url=own_broker.url)
    fleet.start_maintainer()
    worker = fleet.start_worker()
    queued = []
    for forgets in (False, True):
        queued.append(queue_spec(fleet.database, spec=WIDE, seeds=4, data={"samples": 256}).id)
        fleet.publish(queued[-1])
        fleet.wait_until_running(queued[-1], worker)
        waiting = [queue_spec(fleet.database).id for _ in range(3)]
        for one in waiting:
            fleet.publish(one)
        own_broker.kill()
        submitted_meanwhile = [queue_spec(fleet.database).id for _ in range(3)]
        for one in submitted_meanwhile:
            fleet.publish(one)
        if forgets:
            shutil.rmtree(own_broker.directory / "appendonlydir")
        own_broker.start()
        queued += [*waiting, *submitted_meanwhile]
        fleet.wait_until_ended(queued)
    assert {fleet.status(one) for one in queued} == {"succeeded"}
    assert {read(fleet.database, one).attempt for one in queued} == {1}, "what ran went on running"
    fleet.assert_settled(queued)
    assert worker.process.poll() is None


def test_a_database_that_is_killed_repeatedly_loses_no_inspection(
    make_fleet: MakeFleet, own_database: PostgresServer
) -> None:
    migrate.upgrade(own_database.url())
    fleet = make_fleet(database_url=own_database.url(), lease_seconds=10.0, heartbeat_seconds=1.0)
    fleet.start_maintainer()
    worker = fleet.start_worker()
    queued = [queue_spec(fleet.database).id for _ in range(10)]
    queued += [queue_spec(fleet.database, spec=WIDE, seeds=2, data={"samples": 256}).id for _ in range(2)]
    for one in queued:
        fleet.publish(one)
    wait_until(lambda: fleet.status(queued[0]) != "queued", "the first one is claimed")
    for pause in (0.0, 0.15, 0.4, 1.0):  # at any step of the inspections: claim, heartbeat or commit
        sleep(pause)
        own_database.kill()
        own_database.start()
        _wait_until_it_answers(fleet.status, queued[0])
    fleet.wait_until_ended(queued)
    assert {fleet.status(one) for one in queued} == {"succeeded"}
    fleet.assert_settled(queued)
    assert worker.process.poll() is None


def _wait_until_it_answers(status: object, inspection_id: str) -> None:
    for _ in range(200):
        try:
            status(inspection_id)  # type: ignore[operator]  # a method of the fleet
        except UNAVAILABLE:
            sleep(0.05)
        else:
            return
    raise AssertionError("the database did not come back")
