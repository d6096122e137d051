"""The API behind gunicorn: a few processes with many threads each, because requests wait or upload slowly."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger as GunicornLogger

from service.api.description.documentation import write_specification
from service.app import create_app
from service.db.engine import Database
from service.processes.child_processes import die_with_parent
from service.processes.first_key import refuse_without_keys
from service.processes.web_worker import MOST_CONNECTIONS, PatientWorker
from service.settings import Settings

STOP_SECONDS = 5  # chosen: longer than any request but long polls
KEEP_ALIVE_SECONDS = 5
SILENT_SECONDS = 60  # gunicorn replaces a process whose main thread hangs longer
MEMORY = Path("/dev/shm")  # noqa: S108  # gunicorn's heartbeats cost no disk access there


def run_api(settings: Settings, *, listening: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: of this process.
        listening: descriptor of an inherited socket; None opens `host:port`.

    Raises:
        SettingsError: the address is reachable from other machines and no key has been made.
    """
    database = Database(settings.database_url, pool_size=1)
    try:
        refuse_without_keys(settings, database)
    finally:
        database.dispose()  # no connection survives the forks of the server
    _Server(settings, listening).run()


def bind_address(settings: Settings) -> str:
    """Return gunicorn's `host:port`."""
    return f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn ships no type information
    def __init__(self, settings: Settings, listening: int | None) -> None:
        self._settings = settings
        self._listening = listening
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {  # Any: gunicorn ships no type information
            "bind": f"fd://{self._listening}" if self._listening is not None else bind_address(self._settings),
            "workers": self._settings.web_workers,
            "threads": self._settings.web_threads,
            "worker_class": "service.processes.web_worker.PatientWorker",
            "worker_connections": MOST_CONNECTIONS,
            "sendfile": False,
            "timeout": SILENT_SECONDS,
            "graceful_timeout": STOP_SECONDS,
            "keepalive": KEEP_ALIVE_SECONDS,
            "worker_tmp_dir": str(MEMORY) if os.access(MEMORY, os.W_OK) else None,
            "loglevel": "warning" if self._settings.log_level == "info" else self._settings.log_level,
            "logger_class": "service.processes.web_server.Logger",
            "proc_name": "gradinspect-api",
            "control_socket_disable": True,
            "post_fork": _after_fork,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        application = create_app(self._settings)
        write_specification(application)
        PatientWorker.most_body_bytes = self._settings.max_spec_body_bytes
        gc.collect()
        gc.freeze()  # later collections, which large bodies cause, need not visit what stays: 100 ms each time
        return application


def _after_fork(_server: object, _worker: object) -> None:
    die_with_parent()


class Logger(GunicornLogger):  # type: ignore[misc]  # untyped base
    """Sends gunicorn's own messages through our logs; requests are logged by the application."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
