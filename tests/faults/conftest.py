"""A fleet with a database and a broker for one module of tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from service.settings import Settings
from tests.support.fleet import FAST, Fleet, MakeFleet
from tests.support.servers import PostgresServer, ValkeyServer


@pytest.fixture(scope="module")
def make_fleet(
    postgres: PostgresServer, valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeFleet]:
    """Make fleets; those of this module are closed at its end. A worker logs to `workers.log` in its directory."""
    made: list[tuple[Fleet, str | None]] = []

    def make(*, database_url: str | None = None, broker_url: str | None = None, **fields: Any) -> Fleet:
        directory = tmp_path_factory.mktemp("fleet")
        name = None
        if database_url is None:
            name = f"fleet_{uuid4().hex}"
            postgres.execute(f"CREATE DATABASE {name} TEMPLATE template_gradinspect")
            database_url = postgres.url(name)
        if broker_url is None:
            valkey.flush()
            broker_url = valkey.url
        given = {"data_dir": directory, "database_url": database_url, "broker_url": broker_url, **FAST, **fields}
        fleet = Fleet(Settings.from_environment({}, **given), directory / "workers.log")
        made.append((fleet, name))
        return fleet

    yield make
    for fleet, name in made:
        fleet.close()
        if name is not None:
            postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
