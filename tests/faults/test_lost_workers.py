"""Workers that are stopped, killed or replaced while they work."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, MakeFleet, WorkerProcess
from tests.support.queueing import queue_spec, wait_until
from tests.support.specimens import read

WIDE = {"input": {"shape": [512]}, "layers": [{"type": "Linear", "out_features": 512}, {"type": "ReLU"}] * 20}


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet) -> Fleet:
    made = make_fleet(worker_slots=1)
    made.start_maintainer()
    first, second = made.start_worker(wait=False), made.start_worker(wait=False)
    first.wait_until_warm()
    second.wait_until_warm()
    return made


def slow(fleet: Fleet) -> str:
    queued = queue_spec(fleet.database, spec=WIDE, seeds=4, data={"samples": 256}).id
    fleet.publish(queued)
    return queued


def owner(fleet: Fleet, inspection_id: str) -> WorkerProcess:
    """Return the worker that runs an inspection."""
    fleet.wait_until_running(inspection_id)
    name = str(read(fleet.database, inspection_id).lease_owner)
    return next(worker for worker in fleet.workers if name.endswith(f"-{worker.pid}"))


def _has_let_go(worker: WorkerProcess, inspection_id: str) -> bool:
    """Return whether the log reports a lost lease."""
    said = [line for line in worker.log.read_text().splitlines() if inspection_id in line]
    return any(event in line for line in said for event in ("report_fenced", "inspection_dropped"))


def test_a_worker_stopped_beyond_its_lease_cannot_write_its_result(fleet: Fleet) -> None:
    queued = slow(fleet)
    sleeper = owner(fleet, queued)
    sleeper.send(signal.SIGSTOP)
    try:
        fleet.wait_until_ended([queued])
    finally:
        sleeper.send(signal.SIGCONT)
    assert (fleet.status(queued), read(fleet.database, queued).attempt) == ("succeeded", 2)
    # When resumed, it sees its child's result or the lost lease; in both cases it changes nothing and continues.
    wait_until(lambda: _has_let_go(sleeper, queued), "it has let go")
    fleet.assert_settled([queued])
    assert str(read(fleet.database, queued).report_key).endswith(".2")
    assert sleeper.process.poll() is None


def test_a_killed_worker_leaves_no_children_and_another_one_finishes(fleet: Fleet) -> None:
    queued = slow(fleet)
    victim = owner(fleet, queued)
    wait_until(lambda: bool(victim.runners()), "a child computes")
    everything = victim.everything()
    victim.end()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in everything), "nothing of it is left")
    fleet.wait_until_ended([queued])
    assert (fleet.status(queued), read(fleet.database, queued).attempt) == ("succeeded", 2)
    fleet.assert_settled([queued])


def test_a_rolling_restart_under_load_costs_no_inspection_and_no_attempt(fleet: Fleet) -> None:
    queued = [queue_spec(fleet.database).id for _ in range(20)]
    for one in queued:
        fleet.publish(one)
    queued.append(slow(fleet))
    next_generation = fleet.start_worker(wait=False)
    last_generation = [worker for worker in fleet.workers if worker is not next_generation]
    for worker in last_generation:
        if worker.process.poll() is None:
            queued.append(slow(fleet))
            worker.send(signal.SIGTERM)
            assert worker.process.wait(timeout=60) == 0, worker.log.read_text()
    next_generation.wait_until_warm()
    queued.append(slow(fleet))
    fleet.wait_until_ended(queued)
    assert {fleet.status(one) for one in queued} == {"succeeded"}
    records = [read(fleet.database, one) for one in queued]
    assert all(record.attempt - record.releases == 1 for record in records)
    fleet.assert_settled(queued)
