"""A real application behind the client, a worker that acts when somebody looks, and sleeps that are written down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from specimens import take

from gradinspect.client import Client
from gradinspect.contracts.report import Measurements
from gradinspect.rules import judge
from gradinspect.testing.measurements import chain
from service.api import create_app
from service.api.context import EXTENSION, Context
from service.db import leases
from service.delivery import deliver
from service.settings import Settings

_LOOK = re.compile(r"/v1/inspections/(insp_[0-9a-f-]{36})(?:/events)?")


@dataclass
class Worker:
    """Ends an inspection just before somebody looks at it.

    Attributes:
        measured: what it finds.
        failure: code and detail, when it shall fail.
        is_away: leaves inspections queued.
    """

    here: Context
    measured: Measurements = field(default_factory=lambda: chain((0.1,) * 5))
    failure: tuple[str, str] | None = None
    is_away: bool = False
    done: set[str] = field(default_factory=set)

    def run(self, inspection_id: str) -> None:
        if self.is_away or inspection_id in self.done:
            return
        self.done.add(inspection_id)
        claim = take(self.here.database, inspection_id)
        if self.failure is not None:
            with self.here.database.write() as session:
                assert leases.fail(session, claim.lease, code=self.failure[0], detail=self.failure[1])
            return
        report = judge(
            self.measured, policy=claim.policy, model=claim.model, inspection=inspection_id, settings=claim.settings
        )
        assert deliver(self.here.database, self.here.store, claim, report)


class Watched(httpx.BaseTransport):
    """Lets the worker act, notes the requests, and passes them on to the application."""

    def __init__(self, inner: httpx.BaseTransport, worker: Worker) -> None:
        self.inner, self.worker = inner, worker
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        looked = _LOOK.fullmatch(request.url.path)
        if request.method == "GET" and looked is not None:
            self.worker.run(looked[1])
        return self.inner.handle_request(request)

    def called(self, method: str) -> list[str]:
        """The paths that a method was used on."""
        return [request.url.path for request in self.requests if request.method == method]


@pytest.fixture
def here(data_dir: Path, sqlite_url: str) -> Iterator[tuple[httpx.BaseTransport, Context]]:
    """The application on SQLite, without a broker: the rows are the truth."""
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
    with Client("http://service.test", transport=watched, sleep=lambda _seconds: None) as made:
        yield made
