"""One inspection in a worker, from the message to the ended row."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service.db import inspections, leases
from service.db.engine import Database
from service.settings import Settings
from service.store.storage import Store
from tests.support.programs import EndlessLoop, mlp, scripted
from tests.support.queueing import queue_spec, queue_upload, report_files, wait_until
from tests.support.specimens import TENANT, read
from workers.supervisor.fork_client import ForkServerError, ForkServers, ServerFacts
from workers.supervisor.worker import Worker


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"heartbeat_seconds": 0.2, "lease_seconds": 5.0, "job_wall_seconds": 60.0})


@pytest.fixture
def worker(settings: Settings, fork_servers: ForkServers) -> Iterator[Worker]:
    made = Worker(settings, fork_servers)
    yield made
    made.database.dispose()


def test_a_queued_spec_succeeds_with_a_report(
    worker: Worker, database: Database, store: Store, settings: Settings
) -> None:
    queued = queue_spec(database)
    worker.inspect(queued.id)
    ended = read(database, queued.id)
    assert (ended.status, ended.attempt, ended.stage, ended.fraction) == ("succeeded", 1, "done", 1.0)
    report = store.reports.get(str(ended.report_key))
    assert report.inspection == queued.id
    assert report.model.kind == "spec"
    assert report.environment.confinement == "limits"
    assert {"fork", "child"} <= report.environment.stages.keys()
    assert report_files(settings.store_dir) == {ended.report_key}


def test_a_queued_upload_succeeds_with_a_report_of_a_confined_child(
    worker: Worker, database: Database, store: Store
) -> None:
    queued = queue_upload(database, store, scripted(mlp()))
    worker.inspect(queued.id)
    ended = read(database, queued.id)
    assert ended.status == "succeeded", ended.error_detail
    assert store.reports.get(str(ended.report_key)).environment.confinement == "full"


def test_a_message_for_an_inspection_that_is_not_queued_changes_nothing(worker: Worker, database: Database) -> None:
    queued = queue_spec(database)
    with database.write() as session:
        inspections.cancel(session, queued.id, tenant=TENANT)
    worker.inspect(queued.id)
    worker.inspect("insp_01970000-0000-7000-8000-000000000000")
    assert (read(database, queued.id).status, read(database, queued.id).attempt) == ("cancelled", 0)


def test_a_model_that_fails_leaves_a_reason_and_no_file(
    worker: Worker, database: Database, store: Store, settings: Settings
) -> None:
    queued = queue_upload(database, store, b"no model at all")
    worker.inspect(queued.id)
    ended = read(database, queued.id)
    assert (ended.status, ended.error_code, ended.error_attempt) == ("failed", "invalid_model", 1)
    assert report_files(settings.store_dir) == set()


def test_a_worker_that_cannot_confine_runs_specs_and_no_uploads(
    worker: Worker, database: Database, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        worker.fork_servers, "facts", lambda: ServerFacts("2", "limits", "seccomp: Function not implemented")
    )
    upload, plain = queue_upload(database, store, scripted(mlp())), queue_spec(database)
    worker.inspect(upload.id)
    worker.inspect(plain.id)
    assert read(database, upload.id).error_code == "uploads_disabled"
    assert "Function not implemented" in str(read(database, upload.id).error_detail)
    assert read(database, plain.id).status == "succeeded"


def test_a_worker_without_a_fork_server_claims_nothing(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> ServerFacts:
        raise ForkServerError("torch does not load")

    monkeypatch.setattr(worker.fork_servers, "facts", away)
    queued = queue_spec(database)
    worker.inspect(queued.id)
    assert (read(database, queued.id).status, read(database, queued.id).attempt) == ("queued", 0)


def test_a_store_that_refuses_the_report_fails_the_inspection(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(worker.store.reports, "put", read_only)
    queued = queue_spec(database)
    worker.inspect(queued.id)
    ended = read(database, queued.id)
    assert (ended.status, ended.error_code) == ("failed", "internal")
    assert "could not be stored" in str(ended.error_detail)


def test_a_cancel_kills_the_computation_within_a_second(worker: Worker, database: Database, store: Store) -> None:
    queued = queue_upload(database, store, scripted(EndlessLoop()))
    working = threading.Thread(target=worker.inspect, args=(queued.id,))
    working.start()
    wait_until(lambda: read(database, queued.id).status == "running", "the inspection runs")
    with database.write() as session:
        assert inspections.cancel(session, queued.id, tenant=TENANT) == "cancelling"
    working.join(timeout=30)
    assert not working.is_alive()
    assert read(database, queued.id).status == "cancelled"


def test_a_worker_that_stops_gives_the_inspection_back_without_costing_an_attempt(
    worker: Worker, database: Database, store: Store
) -> None:
    queued = queue_upload(database, store, scripted(EndlessLoop()))
    working = threading.Thread(target=worker.inspect, args=(queued.id,))
    working.start()
    wait_until(lambda: read(database, queued.id).status == "running", "the inspection runs")
    worker.stop_jobs()
    working.join(timeout=30)
    given_back = read(database, queued.id)
    assert (given_back.status, given_back.attempt, given_back.releases) == ("queued", 1, 1)
    worker.inspect(queued.id)
    assert read(database, queued.id).status == "queued", "a worker that stops takes nothing more"


def test_the_lease_is_extended_while_a_child_computes(worker: Worker, database: Database, store: Store) -> None:
    queued = queue_upload(database, store, scripted(EndlessLoop()))
    working = threading.Thread(target=worker.inspect, args=(queued.id,))
    working.start()
    wait_until(lambda: read(database, queued.id).status == "running", "the inspection runs")
    first = read(database, queued.id).lease_until
    wait_until(lambda: read(database, queued.id).lease_until != first, "the lease is extended")
    worker.stop_jobs()
    working.join(timeout=30)
    assert not working.is_alive()


def test_measurements_that_cannot_be_judged_fail_the_inspection(
    worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect of ours")

    monkeypatch.setattr("workers.supervisor.worker.judge", broken)
    queued = queue_spec(database)
    worker.inspect(queued.id)
    ended = read(database, queued.id)
    assert (ended.status, ended.error_code) == ("failed", "internal")


def test_a_report_of_a_lost_lease_is_dropped(
    worker: Worker, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued = queue_spec(database)
    put = worker.store.reports.put

    def put_late(*arguments: Any, **keywords: Any) -> str:
        with database.write() as session:
            leases.expire(session, max_attempts=3, retry_seconds=0.0)
            inspections.cancel(session, queued.id, tenant=TENANT)
        return put(*arguments, **keywords)

    monkeypatch.setattr(worker.store.reports, "put", put_late)
    worker.inspect(queued.id)
    assert read(database, queued.id).status == "cancelled"
    assert report_files(settings.store_dir) == set()
