"""Where the reports of a run go: a file of JSON lines, or a service. Both write in another thread."""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from gradinspect.client import Client, GradinspectError
from gradinspect.client.reports import push_json
from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.wire.pushes import ReportPush, TrainingStep
from gradinspect.contracts.wire.runs import RunEnd, RunRequest


class Recorder(Protocol):
    """Takes the reports of one run."""

    def take(self, report: Report, *, settings: InspectionSettings, step: int, training: TrainingStep) -> None:
        """Take the report of a step; returns at once."""

    def end(self, how: RunEnd) -> None:
        """Write what has been taken, and how the run ended."""


class _Background(threading.Thread, ABC):
    """Calls `_write` with each report in another thread, in order; a failure is warned of once.

    Args:
        what: the destination, for the warning.
    """

    def __init__(self, what: str) -> None:
        super().__init__(name="gradinspect-run", daemon=True)
        self._what = what
        self._waiting: SimpleQueue[ReportPush | None] = SimpleQueue()
        self._failure: str | None = None
        self.start()

    def put(self, push: ReportPush) -> None:
        """Write a report soon."""
        self._waiting.put(push)

    def run(self) -> None:
        """Write until the end."""
        while (push := self._waiting.get()) is not None:
            try:
                self._write(push)
            except (GradinspectError, OSError) as error:
                self._failure = self._failure or str(error)

    def finish(self) -> None:
        """Wait until everything is written, and warn of what was not."""
        self._waiting.put(None)
        self.join()
        if self._failure is not None:
            warnings.warn(f"reports of the run are missing at {self._what}: {self._failure}", stacklevel=4)

    @abstractmethod
    def _write(self, push: ReportPush) -> None:
        """Write one report."""


class FileRecorder(_Background):
    """Appends each report to a file, as a line that `POST /v1/reports` takes.

    Args:
        path: of the file; an existing one is continued.
        about: the run.
    """

    def __init__(self, path: Path, about: RunRequest) -> None:
        self._about = about
        self._file = path.open("ab")
        super().__init__(str(path))

    def take(self, report: Report, *, settings: InspectionSettings, step: int, training: TrainingStep) -> None:
        """See Recorder."""
        self.put(_push(report, settings, self._about, run=None, step=step, training=training))

    def end(self, how: RunEnd) -> None:  # noqa: ARG002  # a file has its steps alone
        """See Recorder."""
        self.finish()
        self._file.close()

    def _write(self, push: ReportPush) -> None:
        self._file.write(push_json(push) + b"\n")
        self._file.flush()


class ServiceRecorder(_Background):
    """Pushes each report to a service, as a step of a run that it creates there.

    Args:
        url: address of the service.
        about: the run; its name and labels are each report's too.
        key: an API key of the service.

    Raises:
        GradinspectError: the service does not answer, or refuses the run.
    """

    def __init__(self, url: str, about: RunRequest, *, key: str | None) -> None:
        self._client = Client(url, key=key)
        self._about = about
        created = self._client.runs.create(name=about.name, every=about.every, labels=about.labels)
        self.run_id, self.page = created.id, f"{self._client.base_url}{created.page}"
        super().__init__(url)

    def take(self, report: Report, *, settings: InspectionSettings, step: int, training: TrainingStep) -> None:
        """See Recorder."""
        self.put(_push(report, settings, self._about, run=self.run_id, step=step, training=training))

    def end(self, how: RunEnd) -> None:
        """See Recorder."""
        self.finish()
        try:
            self._client.runs.end(self.run_id, how)
        except GradinspectError as error:
            warnings.warn(f"the end of the run is missing at {self._what}: {error}", stacklevel=3)
        self._client.close()

    def _write(self, push: ReportPush) -> None:
        self._client.reports.send(push)


def _push(
    report: Report,
    settings: InspectionSettings,
    about: RunRequest,
    *,
    run: str | None,
    step: int,
    training: TrainingStep,
) -> ReportPush:
    # Everything is validated already.
    return ReportPush.model_construct(
        report=report,
        name=about.name,
        settings=settings,
        policy="default",
        labels=about.labels,
        run=run,
        step=step,
        training=training,
    )
