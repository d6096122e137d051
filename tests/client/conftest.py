"""A real application behind the client, and a fake worker that acts when an inspection is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gradinspect.client import Client
from service.app import create_app
from service.context import EXTENSION, Context
from service.settings import Settings
from tests.support.pretend_worker import Watched, Worker


@pytest.fixture
def here(data_dir: Path, sqlite_url: str) -> Iterator[tuple[httpx.BaseTransport, Context]]:
    """Make the application on SQLite, without a broker."""
    app = create_app(Settings.from_environment({}, data_dir=data_dir, database_url=sqlite_url))
    context: Context = app.extensions[EXTENSION]
    yield httpx.WSGITransport(app=app), context
    context.database.dispose()
    context.dispatcher.close()


@pytest.fixture
def worker(here: tuple[httpx.BaseTransport, Context]) -> Worker:
    return Worker(here[1])


@pytest.fixture
def watched(here: tuple[httpx.BaseTransport, Context], worker: Worker) -> Watched:
    return Watched(here[0], worker)


@pytest.fixture
def client(watched: Watched) -> Iterator[Client]:
    with Client("http://localhost", transport=watched, sleep=lambda _seconds: None) as made:
        yield made
