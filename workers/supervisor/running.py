"""A worker process: start the fork server, then consume the queue; on SIGTERM stop in the opposite order."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import structlog
from celery import signals
from celery.platforms import SecurityWarning

from service.db.engine import UNAVAILABLE
from service.db.workers import BEAT_SECONDS
from service.logs import configure_logs
from service.settings import Settings, SettingsError
from workers.supervisor.app import make_app
from workers.supervisor.devices import visible_gpus
from workers.supervisor.fork_client import ForkServerError, ForkServers
from workers.supervisor.tasks import register
from workers.supervisor.worker import Worker

HEARTBEAT_FAILURES: tuple[type[Exception], ...] = (ForkServerError, *UNAVAILABLE)

_log = structlog.get_logger(__name__)


def run_worker(settings: Settings) -> None:
    """Serve the queues until SIGTERM or SIGINT.

    Raises:
        SettingsError: no broker is configured, or the gpu queue has no GPU.
        ForkServerError: torch cannot be loaded here.
    """
    app = make_app(settings)
    if "gpu" in settings.worker_queues and not visible_gpus():
        raise SettingsError("this worker is to serve the gpu queue and sees no GPU; check CUDA_VISIBLE_DEVICES")
    fork_servers = ForkServers()
    fork_servers.start()
    try:
        facts = fork_servers.facts()
        _log.info("worker_warm", torch=facts.torch_version, confinement=facts.level, reason=facts.reason)
        worker = Worker(settings, fork_servers)
        register(app, worker)
        ended = threading.Event()
        heartbeat = threading.Thread(target=_beat_until, args=(worker, ended), name="heartbeat", daemon=True)
        heartbeat.start()
        try:
            _consume(app, worker, settings)
        finally:
            ended.set()
            heartbeat.join()
            worker.leave()
            worker.database.dispose()
    finally:
        fork_servers.close()


def _consume(app: Any, worker: Worker, settings: Settings) -> None:  # Any: Celery ships no type information
    def stop_soon(**_: object) -> None:
        # Celery waits for running tasks without a limit; this ends them.
        timer = threading.Timer(settings.stop_seconds, worker.stop_jobs)
        timer.daemon = True
        timer.start()

    def keep_logging(**_: object) -> None:
        configure_logs(log_format=settings.log_format, level=settings.log_level)

    signals.worker_shutting_down.connect(stop_soon, weak=False)
    signals.setup_logging.connect(keep_logging, weak=False)
    # Celery warns of root because of pickle, which is not accepted here.
    warnings.simplefilter("ignore", SecurityWarning)
    consumer = app.Worker(
        hostname=f"gradinspect@{worker.name}",
        queues=list(settings.worker_queues),
        pool="threads",
        concurrency=settings.worker_slots,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    consumer.start()


def _beat_until(worker: Worker, ended: threading.Event) -> None:
    """Keep the worker's row fresh while its fork server answers."""
    while True:
        try:
            worker.beat()
        except HEARTBEAT_FAILURES as error:
            _log.warning("heartbeat_failed", detail=(str(error).splitlines() or [type(error).__name__])[0])
        if ended.wait(BEAT_SECONDS):
            return
