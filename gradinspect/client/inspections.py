"""Inspections: submit, follow, wait, cancel, read their results."""

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
from gradinspect.contracts.report.trial import Prescription
from gradinspect.contracts.request.request import InspectionRequest
from gradinspect.contracts.wire.resources import ENDED, FindingsResource, InspectionResource, LayerRow, ParameterRow
from gradinspect.report.shown import Report

LONGEST_WAIT_SECONDS = 25.0  # of one request; the service allows 30, where some proxies cut the connection
PROGRESS_WAIT_SECONDS = 0.5  # chosen: how often progress is reported
SHORTEST_POLL_SECONDS = 0.25  # chosen: a service without a free thread answers at once instead of waiting
Progress = Callable[[str, float], None]


class Inspections:
    """`client.inspections`: submit, get, list, wait, events, cancel, delete, and the parts of the report.

    Args:
        calls: sends the requests.
        clock, sleep: replaced in tests.
    """

    def __init__(
        self, calls: Calls, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._calls, self._clock, self._sleep = calls, clock, sleep

    def submit(
        self, request: InspectionRequest | dict[str, Any], *, key: str | None = None
    ) -> InspectionResource:  # Any: JSON until it is validated
        """Submit an inspection.

        Args:
            request: the body of `POST /v1/inspections`.
            key: an Idempotency-Key; by default a new one, so that retries of this call create one inspection.

        Raises:
            ProblemError: the request is wrong.
            GradinspectError: the service refuses it.
        """
        body = request if isinstance(request, InspectionRequest) else from_python(InspectionRequest, request)
        return self._calls.read(
            InspectionResource, "POST", "/v1/inspections", content=body.model_dump_json(exclude_unset=True).encode(),
            headers={"Content-Type": "application/json", "Idempotency-Key": key or str(uuid4())},
        )  # fmt: skip

    def get(self, inspection_id: str, *, wait: float = 0.0) -> InspectionResource:
        """Return an inspection, now or when it has ended, after at most `wait` seconds (30 at most)."""
        # The socket's time-out must be later than the service's answer at the end of the wait.
        return self._calls.read(
            InspectionResource, "GET", f"/v1/inspections/{inspection_id}", query={"wait": wait or None},
            timeout=httpx.Timeout(30.0, read=wait + 30.0),
        )  # fmt: skip

    def list(self, **filters: str | int | list[str] | None) -> Iterator[InspectionResource]:
        """Yield inspections, newest first.

        Args:
            filters: status, verdict, model, name, label, rule, created_after, created_before; limit is a page's size.
        """
        return self._calls.pages(InspectionResource, "/v1/inspections", filters)

    def wait(
        self, inspection_id: str, *, seconds: float | None = None, progress: Progress | None = None
    ) -> InspectionResource:
        """Wait until an inspection has succeeded.

        Args:
            seconds: the longest time to wait; None waits without limit.
            progress: called with the stage and the fraction done.

        Raises:
            InspectionFailed, InspectionCancelled, StillRunning: it has not succeeded.
        """
        started = self._clock()
        while True:
            polled = self._clock()
            left = None if seconds is None else seconds - (polled - started)
            longest = LONGEST_WAIT_SECONDS if progress is None else PROGRESS_WAIT_SECONDS
            inspection = self.get(inspection_id, wait=longest if left is None else max(min(left, longest), 0.0))
            if progress is not None:
                _report_progress(progress, inspection)
            if inspection.status in ENDED:
                return _succeeded(inspection)
            if left is not None and left <= 0:
                raise StillRunning(inspection_id, seconds or 0.0)
            spent = self._clock() - polled
            if spent < SHORTEST_POLL_SECONDS:
                self._sleep(SHORTEST_POLL_SECONDS - spent)

    def events(self, inspection_id: str) -> Iterator[InspectionResource]:
        """Yield every state of an inspection until it has ended; continue a stream that was cut."""
        last_id: str | None = None
        while True:
            for name, state in self._calls.events(f"/v1/inspections/{inspection_id}/events", last_id):
                last_id, inspection = name, parsed_text(InspectionResource, state)
                yield inspection
                if inspection.status in ENDED:
                    return
            self._sleep(SHORTEST_POLL_SECONDS)

    def cancel(self, inspection_id: str) -> InspectionResource:
        """Cancel an inspection; it cannot be resumed.

        Raises:
            Conflict: it has ended.
        """
        return self._calls.read(InspectionResource, "POST", f"/v1/inspections/{inspection_id}/cancel")

    def delete(self, inspection_id: str) -> None:
        """Delete an inspection that has ended, with its report.

        Raises:
            Conflict: it is queued or running; cancel it first.
        """
        self._calls.send("DELETE", f"/v1/inspections/{inspection_id}")

    def report(self, inspection_id: str) -> Report:
        """Return the report.

        Raises:
            Conflict: `not_finished`, `no_report`.
        """
        headers = {"Accept": "application/json"}
        response = self._calls.send("GET", f"/v1/inspections/{inspection_id}/report", headers=headers)
        return Report.of(parsed(contract.Report, response))

    def findings(self, inspection_id: str, *, policy: str | None = None) -> FindingsResource:
        """Return the findings, under the policy of the inspection or another one."""
        query = {"policy": policy}
        return self._calls.read(FindingsResource, "GET", f"/v1/inspections/{inspection_id}/findings", query=query)

    def lr_scales(self, inspection_id: str) -> LrScales:
        """Return the suggested learning-rate scales.

        Raises:
            Conflict: `not_requested`.
        """
        headers = {"Accept": "application/json"}
        return self._calls.read(LrScales, "GET", f"/v1/inspections/{inspection_id}/lr-scales", headers=headers)

    def lr_scales_code(self, inspection_id: str) -> str:
        """Return Python source that builds the optimizer."""
        path = f"/v1/inspections/{inspection_id}/lr-scales"
        return self._calls.send("GET", path, query={"format": "torch"}).text

    def prescription(self, inspection_id: str) -> Prescription:
        """Return the changes with which the model was seen to learn.

        Raises:
            Conflict: `not_requested`.
        """
        headers = {"Accept": "application/json"}
        return self._calls.read(Prescription, "GET", f"/v1/inspections/{inspection_id}/prescription", headers=headers)

    def prescription_code(self, inspection_id: str) -> str:
        """Return Python source that changes `model` and makes `optimizer`.

        Raises:
            Conflict: `not_requested` where nothing is prescribed.
        """
        path = f"/v1/inspections/{inspection_id}/prescription"
        return self._calls.send("GET", path, query={"format": "torch"}).text

    def layers(self, inspection_id: str, **filters: Any) -> Iterator[LayerRow]:  # Any: texts and numbers
        """Yield layer calls. Every number of a row is a filter: `backward_gain__lt=0.1`, and `sort="-grad_norm"`."""
        return self._calls.pages(LayerRow, f"/v1/inspections/{inspection_id}/layers", filters)

    def parameters(self, inspection_id: str, **filters: Any) -> Iterator[ParameterRow]:  # Any: texts and numbers
        """Yield parameters, filtered and sorted like layers."""
        return self._calls.pages(ParameterRow, f"/v1/inspections/{inspection_id}/parameters", filters)


def _report_progress(progress: Progress, inspection: InspectionResource) -> None:
    stage = "waiting for a worker" if inspection.status == "queued" else inspection.progress.stage
    progress(stage, inspection.progress.fraction)


def _succeeded(inspection: InspectionResource) -> InspectionResource:
    if inspection.status == "succeeded":
        return inspection
    if inspection.status == "cancelled":
        raise InspectionCancelled(inspection.id)
    code, detail = (
        ("internal", "no reason was given")
        if inspection.error is None
        else (inspection.error.code, inspection.error.detail)
    )
    raise InspectionFailed(inspection.id, code, detail)
