"""Concurrent use of one database by many threads and processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from service.db import clock
from service.db.engine import UNAVAILABLE, Database, try_lock
from service.db.tables import InspectionRecord, LabelRecord
from tests.support.specimens import read, submit

SUBMITTING = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.support.specimens import submit
from service.db.engine import Database
database = Database(sys.argv[2])
for _ in range(10):
    submit(database)
"""


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(InspectionRecord)) or 0


def test_concurrent_writes_of_threads_all_succeed(database: Database) -> None:
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda _: submit(database), range(128)))
    assert count(database) == 128


def test_concurrent_writes_of_processes_all_succeed(database: Database) -> None:
    arguments = [sys.executable, "-c", SUBMITTING, str(Path(__file__).parents[3]), database.url]
    runs = [subprocess.Popen(arguments, stderr=subprocess.PIPE) for _ in range(3)]
    for run in runs:
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors.decode()
    assert count(database) == 30


def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    submit(database)
    with database.write() as session:
        session.execute(text("UPDATE inspections SET stage = 'half done'"))
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(count, database).result(timeout=5) == 1


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    class HalfwayError(Exception):
        pass

    def fail_halfway() -> None:
        with database.write() as session:
            session.execute(text("DELETE FROM inspections"))
            raise HalfwayError

    submit(database)
    with pytest.raises(HalfwayError):
        fail_halfway()
    assert count(database) == 1


def test_foreign_keys_hold(database: Database) -> None:
    def add_a_stray_label() -> None:
        with database.write() as session:
            session.add(LabelRecord(inspection_id="insp_nobody", tenant_id="default", key="a", value="b"))

    with pytest.raises(IntegrityError):
        add_a_stray_label()


def test_an_inspection_does_not_run_without_a_lease(database: Database) -> None:
    def run_without() -> None:
        with database.write() as session:
            session.execute(text("UPDATE inspections SET status = 'running'"))

    submit(database)
    with pytest.raises(IntegrityError):
        run_without()


def test_time_is_utc_and_the_databases(database: Database) -> None:
    with database.read() as session:
        now, later = session.execute(select(clock.now(), clock.now_plus(90.5))).one()
    assert now.tzinfo is UTC
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=60)
    assert abs((later - now).total_seconds() - 90.5) < 0.1
    created = read(database, submit(database).id).created_at
    assert created.tzinfo is UTC


def test_times_of_other_zones_are_converted_before_comparison(database: Database) -> None:
    record = submit(database)
    east = record.created_at.astimezone(tz=None) + timedelta(milliseconds=5)
    with database.read() as session:
        assert session.scalars(select(InspectionRecord.id).where(InspectionRecord.created_at < east)).all()
        assert not session.scalars(select(InspectionRecord.id).where(InspectionRecord.created_at > east)).all()


def test_an_advisory_lock_is_held_by_one_until_its_transaction_ends(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    with database.write() as first:
        assert try_lock(first, 7)
        with database.write() as second:
            assert not try_lock(second, 7)
    with database.write() as third:
        assert try_lock(third, 7)
    database.dispose()


def test_a_lock_is_always_free_on_sqlite_where_a_writer_is_alone(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.write() as session:
        assert try_lock(session, 7)
    database.dispose()


def test_a_missing_database_is_reported_as_unavailable(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/missing/name.db", f"postgresql+psycopg://postgres@/x?host={tmp_path}"):
        database = Database(url)
        with pytest.raises(UNAVAILABLE):
            database.ping()
        database.dispose()


def test_a_restart_of_the_database_is_invisible_to_callers(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    submit(database)
    other = Database(postgresql_url)
    with other.write() as session:
        session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        )
    assert count(database) == 1
    database.dispose()
    other.dispose()


def test_sqlite_files_are_in_wal_mode_and_synced(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.read() as session:
        pragmas = {
            name: session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    database.dispose()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_writer_waits_for_another_process_that_holds_the_file(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    path = sqlite_url.removeprefix("sqlite:///")
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, holder.execute, ["COMMIT"])
    release.start()
    submit(database)
    release.join()
    holder.close()
    assert count(database) == 1
    database.dispose()
