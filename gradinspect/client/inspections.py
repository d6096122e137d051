"""Inspections: submit, follow, wait, cancel, and read what they found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx

from gradinspect.client.calls import Calls, parsed, parsed_text
from gradinspect.client.errors import InspectionCancelled, InspectionFailed, StillRunning
from gradinspect.contracts.document import from_python
from gradinspect.contracts.report import report as contract
from gradinspect.contracts.report.sections import LrScales
from gradinspect.contracts.request.request import InspectionRequest
from gradinspect.contracts.wire.resources import ENDED, FindingsResource, InspectionResource, LayerRow, ParameterRow
from gradinspect.report.shown import Report

LONGEST_WAIT_SECONDS = 25.0  # what one request asks for; the service allows 30, proxies may cut at that
HEARD_WAIT_SECONDS = 0.5  # chosen: how often somebody who watches hears of it
QUICKEST_ASK_SECONDS = 0.25  # chosen: a service that is too busy to hold us answers at once
Progress = Callable[[str, float], None]


class Inspections:
    """`client.inspections`: submit, get, list, wait, cancel, report, findings, lr_scales, layers, parameters, events.

    Args:
        calls: the way to the service.
        clock, sleep: time, for tests.
    """

    def __init__(
        self, calls: Calls, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._calls, self._clock, self._sleep = calls, clock, sleep

    def submit(
        self, request: InspectionRequest | dict[str, Any], *, key: str | None = None
    ) -> InspectionResource:  # Any: JSON until it is validated
        """Ask for an inspection.

        Args:
            request: the body of `POST /v1/inspections`.
            key: an Idempotency-Key; left out, a new one, so that the retries of this call make one inspection.

        Raises:
            ProblemError: the request is wrong; GradinspectError: the service refuses it.
        """
        body = request if isinstance(request, InspectionRequest) else from_python(InspectionRequest, request)
        return self._calls.read(
            InspectionResource, "POST", "/v1/inspections", content=body.model_dump_json(exclude_unset=True).encode(),
            headers={"Content-Type": "application/json", "Idempotency-Key": key or str(uuid4())},
        )  # fmt: skip

    def get(self, inspection_id: str, *, wait: float = 0.0) -> InspectionResource:
        """One inspection, as it is now or after at most `wait` seconds (30 at most)."""
        # The service answers when the wait is over; the socket's own time-out has to be later than that.
        return self._calls.read(
            InspectionResource, "GET", f"/v1/inspections/{inspection_id}", query={"wait": wait or None},
            timeout=httpx.Timeout(30.0, read=wait + 30.0),
        )  # fmt: skip

    def list(self, **filters: str | int | list[str] | None) -> Iterator[InspectionResource]:
        """All inspections, newest first.

        Args:
            filters: status, verdict, model, label, rule, created_after, created_before; limit is the size of a page.
        """
        return self._calls.pages(InspectionResource, "/v1/inspections", filters)

    def wait(
        self, inspection_id: str, *, seconds: float | None = None, progress: Progress | None = None
    ) -> InspectionResource:
        """Wait until an inspection has ended well.

        Args:
            seconds: give up after so long; None waits for as long as it takes.
            progress: told the stage and the fraction done, whenever the service tells them.

        Raises:
            InspectionFailed, InspectionCancelled, StillRunning: it did not.
        """
        started = self._clock()
        while True:
            asked = self._clock()
            left = None if seconds is None else seconds - (asked - started)
            longest = LONGEST_WAIT_SECONDS if progress is None else HEARD_WAIT_SECONDS
            found = self.get(inspection_id, wait=longest if left is None else max(min(left, longest), 0.0))
            if progress is not None:
                _tell(progress, found)
            if found.status in ENDED:
                return _well_ended(found)
            if left is not None and left <= 0:
                raise StillRunning(inspection_id, seconds or 0.0)
            spent = self._clock() - asked
            if spent < QUICKEST_ASK_SECONDS:
                self._sleep(QUICKEST_ASK_SECONDS - spent)

    def events(self, inspection_id: str) -> Iterator[InspectionResource]:
        """Every state of an inspection as it comes, the last one included; a stream that was cut is taken up again."""
        known: str | None = None
        while True:
            for name, state in self._calls.events(f"/v1/inspections/{inspection_id}/events", known):
                known, found = name, parsed_text(InspectionResource, state)
                yield found
                if found.status in ENDED:
                    return
            self._sleep(QUICKEST_ASK_SECONDS)

    def cancel(self, inspection_id: str) -> InspectionResource:
        """Cancel an inspection for good.

        Raises:
            Conflict: it has ended.
        """
        return self._calls.read(InspectionResource, "POST", f"/v1/inspections/{inspection_id}/cancel")

    def report(self, inspection_id: str) -> Report:
        """The whole report.

        Raises:
            Conflict: `not_finished`, `no_report`.
        """
        headers = {"Accept": "application/json"}
        response = self._calls.send("GET", f"/v1/inspections/{inspection_id}/report", headers=headers)
        return Report.of(parsed(contract.Report, response))

    def findings(self, inspection_id: str, *, policy: str | None = None) -> FindingsResource:
        """What the rules say, under the policy it was judged by or under another one."""
        query = {"policy": policy}
        return self._calls.read(FindingsResource, "GET", f"/v1/inspections/{inspection_id}/findings", query=query)

    def lr_scales(self, inspection_id: str) -> LrScales:
        """The learning-rate suggestion.

        Raises:
            Conflict: `not_requested`.
        """
        headers = {"Accept": "application/json"}
        return self._calls.read(LrScales, "GET", f"/v1/inspections/{inspection_id}/lr-scales", headers=headers)

    def lr_scales_code(self, inspection_id: str) -> str:
        """Python source that builds the optimizer."""
        path = f"/v1/inspections/{inspection_id}/lr-scales"
        return self._calls.send("GET", path, query={"format": "torch"}).text

    def layers(self, inspection_id: str, **filters: Any) -> Iterator[LayerRow]:  # Any: texts and numbers
        """Layer calls. Every number of a row is a filter: `backward_gain__lt=0.1`, and `sort="-grad_norm"`."""
        return self._calls.pages(LayerRow, f"/v1/inspections/{inspection_id}/layers", filters)

    def parameters(self, inspection_id: str, **filters: Any) -> Iterator[ParameterRow]:  # Any: texts and numbers
        """Parameters, filtered and sorted as layers are."""
        return self._calls.pages(ParameterRow, f"/v1/inspections/{inspection_id}/parameters", filters)


def _tell(progress: Progress, found: InspectionResource) -> None:
    stage = "waiting for a worker" if found.status == "queued" else found.progress.stage
    progress(stage, found.progress.fraction)


def _well_ended(found: InspectionResource) -> InspectionResource:
    if found.status == "succeeded":
        return found
    if found.status == "cancelled":
        raise InspectionCancelled(found.id)
    code, detail = (
        ("internal", "no reason was given") if found.error is None else (found.error.code, found.error.detail)
    )
    raise InspectionFailed(found.id, code, detail)
