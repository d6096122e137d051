"""Upgrades and downgrades of the schema, run from code. The steps are in the package `migrations`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url, text

from service.db.engine import Database

LOCK = 0x67726164  # "grad": one upgrade at a time, however many processes start together


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the schema up to `revision`; does nothing when it is there already. Safe to run many times at once."""
    with _config(url) as config:
        command.upgrade(config, revision)


def downgrade(url: str, revision: str) -> None:
    """Downgrade the schema to `revision`, `base` for an empty database. Data that only newer schemas store is lost."""
    with _config(url) as config:
        command.downgrade(config, revision)


def current(url: str) -> str | None:
    """Return the revision of the database; None when it has no schema."""
    database = Database(url)
    try:
        with database.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        database.dispose()


def head() -> str:
    """Return the revision that this code works with."""
    revision = ScriptDirectory.from_config(_scripts()).get_current_head()
    assert revision is not None, "there are migrations"
    return revision


@contextmanager
def _config(url: str) -> Iterator[Config]:
    """Yield a configuration with an open transaction that holds the lock of migrations; commit at the end."""
    database = Database(url, pool_size=1)
    if database.is_sqlite:
        Path(str(make_url(url).database)).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = _scripts()
    try:
        with database.write() as session:
            connection = session.connection()
            _lock(connection)
            config.attributes["connection"] = connection
            yield config
    finally:
        database.dispose()


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": LOCK})


def _scripts() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    return config
