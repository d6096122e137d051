"""Faults around one living worker: killed children, lost and repeated messages, hostile models, cancels."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from time import sleep
from typing import Any

import pytest

from service.db import inspections, leases
from service.db.tables import InspectionRecord
from tests.support.fleet import Fleet, MakeFleet, WorkerProcess
from tests.support.programs import EndlessLoop, HugeTensor, deeply_nested, mlp, scripted
from tests.support.queueing import queue_spec, queue_upload, wait_until
from tests.support.specimens import TENANT, read

WIDE = {"input": {"shape": [512]}, "layers": [{"type": "Linear", "out_features": 512}, {"type": "ReLU"}] * 20}
SLOW: dict[str, Any] = {"spec": WIDE, "seeds": 4, "data": {"samples": 256}}  # about a second on an idle CPU


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet) -> Fleet:
    # Two maintainers throughout, so that an action that could happen twice does.
    made = make_fleet(job_wall_seconds=6.0, job_memory_bytes=2**30)
    made.start_worker()
    made.start_maintainer()
    made.start_maintainer()
    return made


@pytest.fixture
def worker(fleet: Fleet) -> Iterator[WorkerProcess]:
    """Start the only worker, which none of these faults may kill."""
    (worker,) = fleet.workers
    yield worker
    assert worker.process.poll() is None, worker.log.read_text()


def slow(fleet: Fleet) -> InspectionRecord:
    return queue_spec(fleet.database, **SLOW)


def kill_a_runner(worker: WorkerProcess) -> None:
    for runner in worker.runners()[:1]:
        os.kill(runner, signal.SIGKILL)


def test_an_inspection_whose_child_was_killed_is_retried(fleet: Fleet, worker: WorkerProcess) -> None:
    queued = slow(fleet)
    fleet.publish(queued.id)
    fleet.wait_until_running(queued.id, worker)
    kill_a_runner(worker)
    fleet.wait_until_ended([queued.id])
    assert (fleet.status(queued.id), read(fleet.database, queued.id).attempt) == ("succeeded", 2)
    fleet.assert_settled([queued.id])


def test_an_inspection_whose_child_is_always_killed_fails_after_three_attempts(
    fleet: Fleet, worker: WorkerProcess
) -> None:
    queued = slow(fleet)
    fleet.publish(queued.id)

    def is_over() -> bool:
        kill_a_runner(worker)
        return fleet.status(queued.id) == "failed"

    wait_until(is_over, "it failed")
    ended = read(fleet.database, queued.id)
    assert (ended.error_code, ended.attempt) == ("worker_lost", 3)
    fleet.assert_settled([queued.id])


def test_a_flushed_broker_loses_no_inspection(fleet: Fleet, worker: WorkerProcess, valkey: object) -> None:
    queued = [slow(fleet).id, slow(fleet).id, *(queue_spec(fleet.database).id for _ in range(6))]
    for one in queued:
        fleet.publish(one)
    fleet.wait_until_running(queued[0], worker)
    valkey.flush()  # type: ignore[attr-defined]  # a ValkeyServer, of a module that is not imported as a type here
    fleet.wait_until_ended(queued)
    assert {fleet.status(one) for one in queued} == {"succeeded"}
    fleet.assert_settled(queued)


def test_a_message_delivered_fifty_times_is_processed_once(fleet: Fleet, worker: WorkerProcess) -> None:
    queued = slow(fleet)
    for _ in range(50):
        fleet.publish(queued.id)
    fleet.wait_until_ended([queued.id])
    wait_until(lambda: fleet.dispatcher.depths(["cpu"])["cpu"] == 0, "all fifty were taken")
    assert (fleet.status(queued.id), read(fleet.database, queued.id).attempt) == ("succeeded", 1)
    fleet.assert_settled([queued.id])


def test_an_api_killed_between_commit_and_publish_loses_no_inspection(fleet: Fleet, worker: WorkerProcess) -> None:
    queued = [queue_spec(fleet.database).id for _ in range(3)]  # committed, and not published
    fleet.wait_until_ended(queued)
    assert {fleet.status(one) for one in queued} == {"succeeded"}
    fleet.assert_settled(queued)


def test_hostile_models_fail_with_their_reason_and_leave_other_inspections_alone(
    fleet: Fleet, worker: WorkerProcess
) -> None:
    poison = {
        "model_crashed": queue_upload(fleet.database, fleet.store, deeply_nested()).id,
        "memory_limit": queue_upload(fleet.database, fleet.store, scripted(HugeTensor())).id,
        "time_limit": queue_upload(fleet.database, fleet.store, scripted(EndlessLoop())).id,
    }
    neighbours = [queue_spec(fleet.database).id for _ in range(4)]
    neighbours.append(queue_upload(fleet.database, fleet.store, scripted(mlp())).id)
    everyone = [*poison.values(), *neighbours]
    for one in everyone:
        fleet.publish(one)
    fleet.wait_until_ended(everyone)
    assert {code: read(fleet.database, one).error_code for code, one in poison.items()} == {c: c for c in poison}
    assert {fleet.status(one) for one in neighbours} == {"succeeded"}
    fleet.assert_settled(everyone)


def test_a_cancel_during_delivery_leaves_either_a_report_or_a_cancelled_row(
    fleet: Fleet, worker: WorkerProcess
) -> None:
    pauses = random.Random(16)
    queued = []
    for _ in range(20):
        one = queue_spec(fleet.database).id
        fleet.publish(one)
        sleep(pauses.uniform(0.0, 0.12))  # the race under test: an inspection takes about as long
        with fleet.database.write() as session:
            inspections.cancel(session, one, tenant=TENANT)
        queued.append(one)
    fleet.wait_until_ended(queued)
    wait_until(lambda: not worker.runners(), "every child is gone")
    assert {fleet.status(one) for one in queued} <= {"succeeded", "cancelled"}
    fleet.assert_settled(queued)


def test_two_maintainers_count_each_lost_worker_once(fleet: Fleet, worker: WorkerProcess) -> None:
    # Leases of a worker that never returns.
    lost = []
    for _ in range(10):
        one = queue_spec(fleet.database).id
        with fleet.database.write() as session:
            if leases.claim(session, one, owner="gone", lease_seconds=0.0) is not None:
                lost.append(one)
    fleet.wait_until_ended(lost)
    assert {fleet.status(one) for one in lost} == {"succeeded"}
    assert {read(fleet.database, one).attempt for one in lost} == {2}
    fleet.assert_settled(lost)
