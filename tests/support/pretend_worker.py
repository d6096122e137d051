"""A worker that ends an inspection when it is read, for tests of waiting clients."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import httpx

from gradinspect.contracts.report.report import Measurements
from gradinspect.rules import judge
from gradinspect.testing.measurements import chain
from service.context import Context
from service.db import leases
from service.lifecycle.delivery import deliver
from tests.support.specimens import take

_LOOK = re.compile(r"/v1/inspections/(insp_[0-9a-f-]{36})(?:/events)?")


@dataclass
class Worker:
    """Ends an inspection just before it is read.

    Attributes:
        measured: the measurements of a success.
        failure: code and detail; None for a success.
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
    """Runs the fake worker, records each request, and passes it to the application."""

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
        """Return the paths requested with a method."""
        return [request.url.path for request in self.requests if request.method == method]
