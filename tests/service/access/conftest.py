"""A service that asks for keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient

from service.app import create_app
from service.context import EXTENSION, Context
from service.settings import Settings


@pytest.fixture
def keyed_settings(data_dir: Path, sqlite_url: str) -> Settings:
    """Make settings of a service that asks for keys on loopback too, on SQLite and without a broker."""
    return Settings.from_environment({}, data_dir=data_dir, database_url=sqlite_url, require_keys=True)


@pytest.fixture
def keyed_app(keyed_settings: Settings) -> Iterator[APIFlask]:
    """Make the application of that service."""
    application = create_app(keyed_settings)
    yield application
    here: Context = application.extensions[EXTENSION]
    here.database.dispose()


@pytest.fixture
def here(keyed_app: APIFlask) -> Context:
    """Return the context of that application."""
    found: Context = keyed_app.extensions[EXTENSION]
    return found


@pytest.fixture
def keyed(keyed_app: APIFlask) -> FlaskClient:
    """Make a client without a key."""
    return keyed_app.test_client()
