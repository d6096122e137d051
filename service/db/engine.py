"""The connection to the database: SQLite in a file that many processes share, or PostgreSQL.

SQLite runs in WAL mode with foreign keys, and a writing transaction takes the write lock when it begins (BEGIN
IMMEDIATE): taken later, on the first UPDATE, it could fail at once instead of waiting for its turn.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, select, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

SQLITE_WAIT_SECONDS = 30  # chosen: longer than any burst of writers we accept, shorter than a lease
CONNECT_SECONDS = 5
POOL_WAIT_SECONDS = 15  # chosen: a connection is held for milliseconds, so this is longer than any burst of threads
STATEMENT_SECONDS = 60  # chosen: no statement of ours takes seconds; one that does must not lock a row for ever

CURSOR_KEY = "cursor_key"  # in the `info` of a session
MAINTENANCE_LOCK = 0x6D61696E  # "main": with `try_lock`, only one maintainer works at a time

# The errors of an unreachable database, which handlers may catch; all others are defects.
UNAVAILABLE: tuple[type[Exception], ...] = (OperationalError, InterfaceError, PoolTimeoutError)


class Database:
    """The connections of one process to the database. Create it after a fork, which no connection survives.

    Args:
        url: of the database.
        pool_size: connections that stay open.
        cursor_key: signs the cursors of lists; left out: a random one, for processes that give none out.
    """

    def __init__(self, url: str, *, pool_size: int = 10, cursor_key: bytes | None = None) -> None:
        self.url = url
        self._pool_size = pool_size
        self._info = {CURSOR_KEY: cursor_key or os.urandom(32)}

    @cached_property
    def engine(self) -> Engine:
        """The pool of connections; nothing is opened before the first use."""
        return _sqlite_engine(self.url) if self.is_sqlite else _postgresql_engine(self.url, self._pool_size)

    @property
    def is_sqlite(self) -> bool:
        """Check whether the database is SQLite, where all writers share one lock."""
        return make_url(self.url).get_backend_name() == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Yield a session that only reads; its rows stay usable afterwards."""
        with self._reading() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Yield a transaction: committed at the end, rolled back on an exception."""
        with self._writing.begin() as session:
            yield session

    def ping(self) -> None:
        """Check that the database answers.

        Raises:
            any of `UNAVAILABLE`: the database does not answer.
        """
        with self.read() as session:
            session.execute(select(text("1")))

    def dispose(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @cached_property
    def _reading(self) -> sessionmaker[Session]:
        # PostgreSQL gives each statement its own snapshot anyway; without a transaction it also saves two round trips.
        engine = self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        return sessionmaker(engine, expire_on_commit=False, info=self._info)

    @cached_property
    def _writing(self) -> sessionmaker[Session]:
        return sessionmaker(
            self.engine.execution_options(begin_immediate=True), expire_on_commit=False, info=self._info
        )


def gave_up_on_lock(error: DBAPIError) -> bool:
    """Check whether a statement gave up waiting for a lock of another transaction.

    On PostgreSQL only: on SQLite a writing transaction holds the only lock from its beginning.
    """
    return getattr(error.orig, "sqlstate", None) == "55P03"  # lock_not_available


def try_lock(session: Session, number: int) -> bool:
    """Take an advisory lock until the transaction ends; False when another session holds it.

    On SQLite a writing transaction already excludes all others, so the lock is always free.
    """
    if session.get_bind().dialect.name == "sqlite":
        return True
    return bool(session.scalar(text("SELECT pg_try_advisory_xact_lock(:number)"), {"number": number}))


def wait_lock(session: Session, number: int) -> None:
    """Take an advisory lock until the transaction ends, waiting for its holder."""
    if session.get_bind().dialect.name != "sqlite":
        session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def _postgresql_engine(url: str, pool_size: int) -> Engine:
    return create_engine(
        url,
        hide_parameters=True,  # rows hold callers' texts, which no error message needs
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_pre_ping=True,  # a database that was restarted is noticed here and not by a caller
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "gradinspect",
            # Plan for the actual values: one label may be rare while another is on a third of all inspections.
            "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c idle_in_transaction_session_timeout=300s "
            "-c plan_cache_mode=force_custom_plan",
            # Behind a broken network a connection fails within half a minute, not within a quarter of an hour.
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,  # milliseconds
        },
    )


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(
        url,
        connect_args={"timeout": SQLITE_WAIT_SECONDS, "check_same_thread": False},
        pool_size=0,
        hide_parameters=True,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:  # Any: SQLAlchemy's pool record
    connection.isolation_level = None  # the driver would begin transactions by itself, and only before writes
    cursor = connection.cursor()
    # Queried first: a change of the mode needs exclusive access and fails when there are other connections.
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        cursor.execute("PRAGMA journal_mode = wal")
    cursor.execute("PRAGMA synchronous = full")  # an accepted inspection survives a power cut
    cursor.execute("PRAGMA foreign_keys = on")
    cursor.execute("PRAGMA temp_store = memory")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("begin_immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
