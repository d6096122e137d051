"""Fixtures of all tests: real servers for the run, and a separate database, store and settings for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest

from service.db import migrate
from service.db.engine import Database
from service.settings import Settings
from service.store.storage import Store, open_store
from tests.support.servers import PostgresServer, Server, ValkeyServer, running

TEMPLATE = "template_gradinspect"

# A busy machine must not fail a test: how long an example or its drawing takes is not what these tests check.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Start a PostgreSQL server for the run, with a migrated template database."""
    for server in running(PostgresServer()):
        assert isinstance(server, PostgresServer)
        server.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate.upgrade(server.url(TEMPLATE))
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """Start a broker for the run."""
    yield from running(ValkeyServer())


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a migrated SQLite file."""
    path = tmp_path_factory.mktemp("template") / "gradinspect.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def postgresql_url(postgres: PostgresServer) -> Iterator[str]:
    """Create a migrated and empty PostgreSQL database for this test."""
    name = f"test_{uuid4().hex}"
    postgres.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield postgres.url(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """Create a migrated and empty SQLite database for this test."""
    path = tmp_path / "gradinspect.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Create a database for this test, which runs once on SQLite and once on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Connect to the database of this test."""
    found = Database(database_url)
    yield found
    found.dispose()


@pytest.fixture
def broker_url(valkey: ValkeyServer) -> str:
    """Empty the broker of this run and give its URL."""
    valkey.flush()
    return valkey.url


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Make a directory for the service's data."""
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def settings(data_dir: Path, database_url: str, broker_url: str) -> Settings:
    """Make settings of a service on real servers, independent of the environment."""
    return Settings.from_environment({}, data_dir=data_dir, database_url=database_url, broker_url=broker_url)


@pytest.fixture
def store(settings: Settings) -> Store:
    """Make the store of this test."""
    return open_store(settings)
