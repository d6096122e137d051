"""A service whose processes tests can kill: workers, maintainers, a database, a broker, a store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import func, select

from gradinspect.contracts.wire.resources import ENDED
from service.db import workers
from service.db.engine import Database
from service.db.results.tables import LayerRecord, ParameterRecord
from service.db.tables import InspectionRecord
from service.lifecycle.dispatch import BrokerUnavailable, Dispatcher
from service.lifecycle.maintenance import Maintainer
from service.lifecycle.retention import sweep_files
from service.settings import Settings
from service.store.storage import open_store
from tests.support.processes import descendants
from tests.support.queueing import report_files, wait_until
from tests.support.specimens import TENANT, read

WARM_SECONDS = 120.0

# Seconds instead of minutes, in the proportions of the defaults.
FAST = {
    "lease_seconds": 3.0,
    "heartbeat_seconds": 0.5,
    "retry_seconds": 0.2,
    "redispatch_seconds": 1.0,
    "maintain_interval_seconds": 0.2,
    "stop_seconds": 0.5,
    "worker_slots": 2,
}


class WorkerProcess:
    """`gradinspect worker`, with its fork server and its children."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._settings = settings
        self.log = log
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADINSPECT_")}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gradinspect", "worker"],
                env=environment | settings.as_environment(), stdout=output, stderr=output,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_warm(self) -> None:
        database = Database(self._settings.database_url, pool_size=1)

        def is_warm() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with database.read() as session:
                status = workers.living(session)
            return status is not None and any(w.name.endswith(f"-{self.pid}") for w in status.workers)

        try:
            wait_until(is_warm, "the worker is warm", WARM_SECONDS)
        finally:
            database.dispose()

    def runners(self) -> list[int]:
        """Return the children of the fork server."""
        servers = [pid for pid, command in descendants(self.pid).items() if "workers.child.forkserver" in command]
        # A child of the fork server carries its parent's command line; the server itself is the worker's child.
        top = [pid for pid in servers if _parent(pid) == self.pid]
        return [pid for pid in servers if pid not in top]

    def everything(self) -> list[int]:
        return [self.pid, *descendants(self.pid)]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Kill the worker and wait for its end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()


class Fleet:
    """The parts of a service in a fault test."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.settings = settings
        self.database = Database(settings.database_url)
        self.store = open_store(settings)
        self.dispatcher = Dispatcher(settings.broker_url)
        self.workers: list[WorkerProcess] = []
        self._log = log
        self._stop = threading.Event()
        self._maintainers: list[threading.Thread] = []

    def start_worker(self, *, wait: bool = True) -> WorkerProcess:
        worker = WorkerProcess(self.settings, self._log)
        self.workers.append(worker)
        if wait:
            worker.wait_until_warm()
        return worker

    def start_maintainer(self) -> None:
        maintainer = threading.Thread(target=Maintainer(self.settings).run, args=(self._stop,), daemon=True)
        self._maintainers.append(maintainer)
        maintainer.start()

    def publish(self, inspection_id: str) -> None:
        """Publish as the API does: without a broker, the maintainer publishes later."""
        with suppress(BrokerUnavailable):
            self.dispatcher.send(inspection_id, queue="cpu")

    def status(self, inspection_id: str) -> str:
        return read(self.database, inspection_id).status

    def wait_until_running(self, inspection_id: str, worker: WorkerProcess | None = None) -> None:
        wait_until(lambda: self.status(inspection_id) == "running", "the inspection runs")
        if worker is not None:
            wait_until(lambda: bool(worker.runners()), "a child computes")

    def wait_until_ended(self, inspection_ids: Sequence[str], seconds: float = 120.0) -> None:
        wait_until(lambda: all(self.status(one) in ENDED for one in inspection_ids), "all have ended", seconds)

    def assert_settled(self, inspection_ids: Sequence[str]) -> None:
        """Assert that each ended once, with one set of results if it succeeded, and that no other report exists."""
        records = [read(self.database, one) for one in inspection_ids]
        assert {record.status for record in records} <= set(ENDED)
        for record in records:
            rows = self._rows(record.id)
            if record.status == "succeeded":
                report = self.store.reports.get(str(record.report_key))
                assert rows == (len(report.layers), len(report.parameters))
                assert report.inspection == record.id
            else:
                assert rows == (0, 0)
                assert record.report_key is None
        sweep_files(self.database, self.store, older_than_seconds=0.0)
        with self.database.read() as session:
            named = set(
                session.scalars(select(InspectionRecord.report_key).where(InspectionRecord.tenant_id == TENANT))
            )
        assert report_files(self.settings.store_dir) == named - {None}

    def close(self) -> None:
        self._stop.set()
        for maintainer in self._maintainers:
            maintainer.join(timeout=10)
        for worker in self.workers:
            worker.end()
        self.dispatcher.close()
        self.database.dispose()

    def _rows(self, inspection_id: str) -> tuple[int, int]:
        with self.database.read() as session:
            counts = [
                session.scalar(select(func.count()).select_from(table).where(table.inspection_id == inspection_id))
                for table in (LayerRecord, ParameterRecord)
            ]
        return int(counts[0] or 0), int(counts[1] or 0)


MakeFleet = Callable[..., Fleet]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1
