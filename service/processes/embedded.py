"""The whole service in one command: broker, migrations, API, worker and maintainer start and end together.

The kernel kills every other process when this one dies, so that even `kill -9` leaves nothing behind.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import monotonic

import structlog

from service.db import migrate, workers
from service.db.engine import Database
from service.lifecycle.maintenance import Maintainer
from service.processes.broker import BrokerError, EmbeddedBroker
from service.processes.child_processes import start
from service.processes.first_key import refuse_without_keys
from service.settings import Settings, SettingsError

READY_SECONDS = 150  # chosen: a cold disk; usually it takes five
STOP_SECONDS = 5.0  # in addition to `stop_seconds` of a worker's jobs
POLL_SECONDS = 0.1
RESTART_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_SECONDS = 60.0  # of running; then its restarts are counted from zero

_log = structlog.get_logger(__name__)


class StartError(Exception):
    """The service does not start here; the message says why."""


@dataclass
class _Part:
    """One process that is restarted whenever it dies."""

    name: str
    begin: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    deaths: int = 0
    due: float = field(default=0.0)

    def start(self) -> None:
        self.process, self.began = self.begin(), monotonic()

    def poll(self) -> bool:
        """Restart the process after a pause when it has died; return whether it just died."""
        if self.process is not None and self.process.poll() is not None:
            status, self.process = self.process.returncode, None
            self.deaths = 0 if monotonic() - self.began > STEADY_SECONDS else self.deaths + 1
            pause = RESTART_PAUSES[min(self.deaths, len(RESTART_PAUSES) - 1)]
            self.due = monotonic() + pause
            _log.error("process_died", process=self.name, status=status, again_in_seconds=pause)
            return True
        if self.process is None and monotonic() >= self.due:
            try:
                self.start()
            except (OSError, BrokerError) as error:
                self.deaths += 1
                self.due = monotonic() + RESTART_PAUSES[min(self.deaths, len(RESTART_PAUSES) - 1)]
                _log.error("process_not_started", process=self.name, detail=str(error))
        return False

    def end(self, seconds: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            _log.warning("process_killed", process=self.name, reason="it did not end in time")
            self.process.kill()
            self.process.wait()


def serve(settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Run everything until SIGINT or SIGTERM. Call this from the main thread.

    Args:
        settings: port 0 takes any free one.
        announce: called with the URL once an inspection can be run.

    Raises:
        SettingsError: a setting cannot work here; most often the port is taken.
        StartError: a part does not start.
        BrokerError: no broker is configured and none can be started.
    """
    stop = threading.Event()
    with ExitStack() as closing:
        closing.enter_context(_signals_set(stop))
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        closing.enter_context(_only_one(settings))
        listener = closing.enter_context(_listen(settings))
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
        parts: list[_Part] = []
        if settings.broker_url is None:
            broker = EmbeddedBroker(settings.data_dir / "broker")
            closing.callback(broker.stop)
            settings = settings.model_copy(update={"broker_url": broker.url})
            parts.append(_Part("broker", lambda: _begin_broker(broker)))
            parts[0].start()
        migrate.upgrade(settings.database_url)
        database = Database(settings.database_url, pool_size=1)
        closing.callback(database.dispose)
        refuse_without_keys(settings, database)
        parts += _our_processes(settings, listener)
        closing.callback(_end, parts, settings)
        for part in parts:
            if part.process is None:
                part.start()
        maintainer = threading.Thread(target=Maintainer(settings).run, args=(stop,), name="maintainer", daemon=True)
        maintainer.start()
        closing.callback(maintainer.join, STOP_SECONDS)
        _wait_until_ready(settings, database, parts, stop)
        if not stop.is_set():
            announce(settings.base_url)
        while not stop.wait(POLL_SECONDS):
            for part in parts:
                part.poll()


def _our_processes(settings: Settings, listener: socket.socket) -> list[_Part]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADINSPECT_")}
    environment |= settings.as_environment()

    def begin(*arguments: str, descriptors: Sequence[int] = ()) -> subprocess.Popen[bytes]:
        # -P: without it the working directory, which may hold a user's own `service`, comes first on the path.
        command = [sys.executable, "-P", "-m", "gradinspect", *arguments]
        return start(command, environment=environment, descriptors=descriptors)

    descriptor = listener.fileno()
    return [
        _Part("worker", lambda: begin("worker")),
        _Part("api", lambda: begin("api", "--listening", str(descriptor), descriptors=[descriptor])),
    ]


def _begin_broker(broker: EmbeddedBroker) -> subprocess.Popen[bytes]:
    broker.start()
    assert broker.process is not None
    return broker.process


def _wait_until_ready(settings: Settings, database: Database, parts: Sequence[_Part], stop: threading.Event) -> None:
    """Wait until the API answers and a worker is warm. A part that dies meanwhile would die again: an error."""
    deadline = monotonic() + READY_SECONDS
    while not (_api_answers(settings) and _worker_is_warm(database, parts)):
        for part in parts:
            if part.poll():
                raise StartError(f"the {part.name} ended while the service started; its own message is above")
        if monotonic() > deadline:
            raise StartError(
                f"the service is not ready after {READY_SECONDS} seconds; the log above says how far it came"
            )
        if stop.wait(POLL_SECONDS):
            return


def _api_answers(settings: Settings) -> bool:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "localhost") else settings.host  # noqa: S104  # compared
    try:
        url = settings.model_copy(update={"host": host, "public_url": None}).base_url
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:  # noqa: S310  # our own http URL
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _worker_is_warm(database: Database, parts: Sequence[_Part]) -> bool:
    with database.read() as session:
        status = workers.living(session)
    pids = {str(part.process.pid) for part in parts if part.process is not None}
    return status is not None and any(worker.name.rpartition("-")[2] in pids for worker in status.workers)


def _end(parts: Sequence[_Part], settings: Settings) -> None:
    """Stop the API, so that nothing new arrives, and the worker; the broker, which both still use, stops later."""
    deadline = monotonic() + settings.stop_seconds + STOP_SECONDS
    ours = [part for part in reversed(parts) if part.name != "broker"]
    for part in ours:
        if part.process is not None and part.process.poll() is None:
            part.process.terminate()
    for part in ours:
        part.end(deadline - monotonic())


@contextmanager
def _signals_set(stop: threading.Event) -> Iterator[None]:
    """Set `stop` on SIGINT and SIGTERM; a second signal changes nothing."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Lock the data directory: two services on it would start two brokers on one file."""
    with (settings.data_dir / "serve.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SettingsError(
                f"another service (process {lock.read().strip() or 'unknown'}) is using {settings.data_dir}; stop it, "
                "or choose another --data-dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def _listen(settings: Settings) -> Iterator[socket.socket]:
    """Bind the port before anything is started; the API inherits the socket, so the port cannot be lost in between."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingsError(
                    f"port {settings.port} on {settings.host} is taken; choose another with --port, or --port 0 for any"
                ) from None
            raise SettingsError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
        listener.listen(2048)
        yield listener
