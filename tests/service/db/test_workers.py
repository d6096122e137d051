"""Rows of living workers: recent ones count, and the weakest confinement decides about uploads."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select, update

from gradinspect.contracts.wire.messages import Limits
from service.db import clock, workers
from service.db.engine import Database
from service.db.tables import WorkerRecord
from service.db.workers import Confinement, OneWorker


def beat(database: Database, name: str, *, confinement: Confinement = "full", reason: str = "") -> None:
    worker = OneWorker(
        name=name, queues=("cpu",), slots=1, torch_version="2", confinement=confinement, reason=reason, limits=Limits()
    )
    with database.write() as session:
        workers.beat(session, worker)


def age(database: Database, name: str, *, seconds: float) -> None:
    with database.write() as session:
        session.execute(update(WorkerRecord).where(WorkerRecord.name == name).values(seen_at=clock.now_plus(-seconds)))


def living(database: Database) -> list[str]:
    with database.read() as session:
        status = workers.living(session)
    return [] if status is None else [worker.name for worker in status.workers]


def test_a_worker_is_alive_while_its_last_beat_is_fresh(database: Database) -> None:
    assert living(database) == []
    beat(database, "a")
    beat(database, "b")
    age(database, "a", seconds=workers.FRESH_SECONDS - 5)
    age(database, "b", seconds=workers.FRESH_SECONDS + 1)
    assert living(database) == ["a"]
    beat(database, "b")
    assert living(database) == ["a", "b"]


def test_a_worker_that_ended_is_not_alive(database: Database) -> None:
    beat(database, "a")
    with database.write() as session:
        workers.remove(session, "a")
    assert living(database) == []


def test_rows_of_workers_killed_long_ago_are_removed(database: Database) -> None:
    beat(database, "a")
    beat(database, "b")
    age(database, "a", seconds=workers.FORGOTTEN_SECONDS + 1)
    age(database, "b", seconds=workers.FORGOTTEN_SECONDS - 5)
    with database.write() as session:
        assert workers.forget_lost(session) == 1
        assert session.scalar(select(func.count()).select_from(WorkerRecord)) == 1


def test_a_row_of_another_release_is_skipped(database: Database) -> None:
    beat(database, "a")
    beat(database, "b")
    with database.write() as session:
        session.execute(update(WorkerRecord).where(WorkerRecord.name == "a").values(document={"later": 1}))
    assert living(database) == ["b"]


@pytest.mark.parametrize("weakest", ["none", "limits"])
def test_the_weakest_worker_decides_about_uploads(database: Database, weakest: Confinement) -> None:
    beat(database, "a")
    with database.read() as session:
        status = workers.living(session)
    assert status is not None
    assert status.takes_uploads
    beat(database, "b", confinement=weakest, reason="no Landlock")
    with database.read() as session:
        status = workers.living(session)
    assert status is not None
    assert not status.takes_uploads
    assert (status.confinement, status.reason) == (weakest, "no Landlock")
