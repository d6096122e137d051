"""Training runs on a service."""

from __future__ import annotations

from collections.abc import Iterator

from gradinspect.client.calls import Calls
from gradinspect.contracts.document import from_python
from gradinspect.contracts.wire.runs import RunEnd, RunRequest, RunResource, RunSeries


class Runs:
    """`client.runs`: create, get, list, end, delete. `client.reports.push` adds steps."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(
        self, *, name: str | None = None, every: int | None = None, labels: dict[str, str] | None = None
    ) -> RunResource:
        """Begin a run.

        Args:
            name: shown in the list.
            every: optimizer steps from one watched step to the next, where that is planned.
            labels: of the run.

        Raises:
            ProblemError: an argument is wrong; nothing was sent.
            GradinspectError: the service refuses it.
        """
        body = from_python(RunRequest, {"name": name, "every": every, "labels": labels or {}})
        return self._calls.read(RunResource, "POST", "/v1/runs", json=body.model_dump(mode="json", exclude_none=True))

    def get(self, run_id: str) -> RunSeries:
        """Return a run with its series."""
        return self._calls.read(RunSeries, "GET", f"/v1/runs/{run_id}")

    def list(self, *, name: str | None = None, limit: int | None = None) -> Iterator[RunResource]:
        """Yield runs, newest first. `name` is exact, `limit` the size of a page."""
        return self._calls.pages(RunResource, "/v1/runs", {"name": name, "limit": limit})

    def end(self, run_id: str, how: RunEnd) -> RunResource:
        """End a run, and record how.

        Raises:
            Conflict: it has ended otherwise.
        """
        path, body = f"/v1/runs/{run_id}/end", how.model_dump(mode="json", exclude_none=True)
        return self._calls.read(RunResource, "POST", path, json=body)

    def delete(self, run_id: str) -> None:
        """Delete a run with the inspections that are its steps."""
        self._calls.send("DELETE", f"/v1/runs/{run_id}")
