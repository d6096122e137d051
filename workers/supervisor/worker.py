"""One worker: claim an inspection, have a child compute it, judge the measurements, deliver. Without torch.

Knows no Celery; `tasks` calls `inspect` with the id in a message.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from time import monotonic

import structlog

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import Measurements, Report
from gradinspect.rules.judge import judge
from service.db import leases, outbox, turns, workers
from service.db.engine import UNAVAILABLE, Database
from service.db.leases import Claim
from service.db.workers import OneWorker
from service.lifecycle.delivery import deliver
from service.lifecycle.dispatch import BrokerUnavailable, Dispatcher
from service.settings import Settings
from service.store.storage import open_store
from workers.supervisor.devices import visible_gpus
from workers.supervisor.endings import Died, Ending, Failed, Lost, Measured, Stopped
from workers.supervisor.fork_client import ForkServerError, ForkServers
from workers.supervisor.lease_keeper import LeaseKeeper
from workers.supervisor.preparation import choose_level, job_json, open_files, trusted
from workers.supervisor.supervise import Watch, supervise

PROGRESS_SECONDS = 1.0  # chosen for a person who watches; each step is a write

_log = structlog.get_logger(__name__)


@dataclass
class Worker:
    """State shared by the slots of one worker process. Several threads may call `inspect` at once."""

    settings: Settings
    fork_servers: ForkServers
    name: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")

    def __post_init__(self) -> None:
        self.database = Database(self.settings.database_url, pool_size=self.settings.database_pool_size)
        self.store = open_store(self.settings)
        self._dispatcher = Dispatcher(self.settings.broker_url)
        self._stopping = threading.Event()
        self._gpus: SimpleQueue[str] = SimpleQueue()
        for gpu in visible_gpus():
            self._gpus.put(gpu)

    def stop_jobs(self) -> None:
        """Kill running jobs and give their inspections back to the queue."""
        self._stopping.set()

    def beat(self) -> None:
        """Write that this worker is alive and what it can do.

        Raises:
            ForkServerError: its fork server does not start.
            any of `UNAVAILABLE`: the database cannot be reached.
        """
        facts = self.fork_servers.facts()
        status = OneWorker(
            name=self.name,
            queues=self.settings.worker_queues,
            slots=self.settings.worker_slots,
            torch_version=facts.torch_version,
            confinement=facts.level,
            reason=facts.reason,
            limits=self.settings.limits,
        )
        with self.database.write() as session:
            workers.beat(session, status)

    def leave(self) -> None:
        """Remove this worker's row; without a database it expires."""
        with suppress(*UNAVAILABLE), self.database.write() as session:
            workers.remove(session, self.name)

    def inspect(self, inspection_id: str) -> None:
        """Process the inspection whose turn it is in the queue of this one; do nothing if none is queued there."""
        if self._stopping.is_set():
            return  # the row stays queued, and the maintainer publishes it again
        try:
            self.fork_servers.facts()
            with self.database.write() as session:
                seconds = self.settings.lease_seconds
                claim = turns.claim_next(
                    session, inspection_id, queues=self.settings.worker_queues, owner=self.name,
                    lease_seconds=seconds, max_running=self.settings.max_running,
                )  # fmt: skip
                if claim is None and self.settings.max_running is not None:
                    turns.publish_again_soon(session, inspection_id)
        except ForkServerError as error:
            # A claim would cost an attempt. While queued, the inspection is published again.
            _log.warning("nothing_claimed", inspection=inspection_id, detail=str(error))
            return
        except UNAVAILABLE as error:
            _log.warning("claim_failed", inspection=inspection_id, detail=_first_line(error))
            return
        if claim is None:
            _log.debug("nothing_to_claim", inspection=inspection_id)
            return
        log = _log.bind(inspection=claim.lease.inspection_id, attempt=claim.attempt)
        keeper = LeaseKeeper(
            self.database, claim.lease,
            lease_seconds=self.settings.lease_seconds, heartbeat_seconds=self.settings.heartbeat_seconds,
        )  # fmt: skip
        try:
            with keeper:
                ending = self._compute(claim, keeper, log)
                self._settle(claim, ending, log)
        except UNAVAILABLE as error:
            # The lease expires, and the maintainer requeues the inspection.
            log.warning("ending_not_written", detail=_first_line(error))

    def _compute(self, claim: Claim, keeper: LeaseKeeper, log: structlog.typing.FilteringBoundLogger) -> Ending:
        try:
            with ExitStack() as opened, self._device(claim) as cuda_device:
                facts = self.fork_servers.facts()
                files = open_files(claim, self.store, opened)
                level = choose_level(claim, facts, has_uploads=bool(files), gpu_uploads=self.settings.gpu_uploads)
                limits = self.settings.limits
                job = job_json(claim, limits)
                child = self.fork_servers.spawn(job, files, limits, level=level, cuda_device=cuda_device)
                opened.callback(child.close)
                log.debug("child_started", pid=child.pid, level=level)
                progress = _Progress(self.database, claim)
                watch = Watch(
                    is_lost=lambda: keeper.is_lost() or progress.is_lost,
                    is_stopping=self._stopping.is_set,
                    on_progress=progress.write,
                )
                ending, log_head = supervise(child, limits, watch, is_upload=claim.is_upload)
                if log_head:
                    log.info("child_log", text=log_head.decode(errors="replace"))
                if isinstance(ending, Measured):
                    believed = trusted(ending, claim, facts, level=level, limits=limits)
                    return replace(ending, measurements=believed)
                return ending
        except ForkServerError as error:
            return Died(str(error))
        except ProblemError as error:
            return Failed("uploads_disabled" if error.code == "uploads_disabled" else "internal", error.detail)
        except Exception:
            log.exception("computing_failed")
            return Failed("internal", "a defect of the worker; its log has the reason")

    def _settle(self, claim: Claim, ending: Ending, log: structlog.typing.FilteringBoundLogger) -> None:
        """Store the ending under the lease."""
        failure = self._deliver(claim, ending.measurements, log) if isinstance(ending, Measured) else None
        ending = failure or ending
        if isinstance(ending, Failed):
            with self.database.write() as session:
                is_mine = leases.fail(session, claim.lease, code=ending.code, detail=ending.detail)
            log.info("inspection_failed" if is_mine else "failure_fenced", code=ending.code, detail=ending.detail)
        elif isinstance(ending, Stopped):
            with self.database.write() as session:
                is_mine = leases.release(session, claim.lease)
            log.info("inspection_given_back")
            if is_mine:
                self._republish(claim)
        elif isinstance(ending, Died):
            # The lease ends now: the maintainer counts the attempt and requeues the inspection after a pause.
            with self.database.write() as session:
                leases.heartbeat(session, claim.lease, lease_seconds=0.0)
            log.warning("attempt_lost", detail=ending.detail)
        elif isinstance(ending, Lost):
            log.info("inspection_dropped", reason="it was cancelled, or its lease was lost")

    def _deliver(
        self, claim: Claim, measurements: Measurements, log: structlog.typing.FilteringBoundLogger
    ) -> Failed | None:
        try:
            report = self._judge(claim, measurements)
        except Exception:
            log.exception("judging_failed")
            return Failed("internal", "the measurements could not be judged; the worker's log has the reason")
        try:
            is_mine = deliver(self.database, self.store, claim, report)
        except (ProblemError, OSError) as error:
            detail = error.detail if isinstance(error, ProblemError) else error.strerror
            log.error("report_not_stored", detail=detail)
            return Failed("internal", f"the report could not be stored: {detail}")
        log.info("inspection_done" if is_mine else "report_fenced", verdict=report.verdict)
        return None

    def _judge(self, claim: Claim, measurements: Measurements) -> Report:
        return judge(
            measurements,
            policy=claim.policy,
            model=claim.model,
            inspection=claim.lease.inspection_id,
            settings=claim.settings,
        )

    @contextmanager
    def _device(self, claim: Claim) -> Iterator[str | None]:
        """Reserve a GPU for a job of the gpu queue, waiting until one is free; None for other jobs."""
        if claim.queue != "gpu":
            yield None
            return
        gpu = self._gpus.get()
        try:
            yield gpu
        finally:
            self._gpus.put(gpu)

    def _republish(self, claim: Claim) -> None:
        """Publish an inspection again, so that another worker need not wait for the maintainer."""
        inspection_id = claim.lease.inspection_id
        try:
            self._dispatcher.send(inspection_id, queue="gpu" if claim.queue == "gpu" else "cpu")
            with self.database.write() as session:
                outbox.mark_dispatched(session, inspection_id, redispatch_seconds=self.settings.redispatch_seconds)
        except BrokerUnavailable:
            pass  # the maintainer publishes it


class _Progress:
    """Writes progress into the row, so rarely that a short job writes none."""

    def __init__(self, database: Database, claim: Claim) -> None:
        self._database = database
        self._lease = claim.lease
        self._next = monotonic() + PROGRESS_SECONDS
        self.is_lost = False

    def write(self, stage: str, fraction: float) -> None:
        if monotonic() < self._next:
            return
        self._next = monotonic() + PROGRESS_SECONDS
        try:
            with self._database.write() as session:
                self.is_lost = not leases.progress(session, self._lease, stage=stage, fraction=fraction)
        except UNAVAILABLE:
            pass  # the lease keeper decides how long to continue without a database


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
