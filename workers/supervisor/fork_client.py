"""The worker's side of the fork server: keep one warm, replace it in time, request children from it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import BinaryIO

import structlog

from gradinspect.contracts.wire.messages import Limits
from workers.child.sandbox import Level
from workers.supervisor.children import FORK_SECONDS, Child, spawn

JOBS_PER_SERVER = 1000  # chosen: a server that only forks leaks little, and a new one takes two seconds
START_SECONDS = 120  # chosen: a cold disk and a busy machine; importing torch takes 2-3 s
POLL_SECONDS = 0.2  # how soon the death of a server is noticed
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0

# The fork server's environment in addition to the fixed variables below: no URL, no key, no token.
INHERITED_VARIABLES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
FIXED_VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MiB of a job's address space
    "PYTHONNOUSERSITE": "1",
}

_log = structlog.get_logger(__name__)


class ForkServerError(Exception):
    """No fork server can take a job now; the message says why."""


@dataclass(frozen=True)
class ServerFacts:
    """What a warm fork server reports about itself."""

    torch_version: str
    level: Level
    reason: str


class _Server:
    """One fork server process."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self.served = 0
        try:
            self.process = subprocess.Popen(  # noqa: S603  # this very Python
                [sys.executable, "-I", "-m", "workers.child.forkserver", str(theirs.fileno()), str(os.getpid())],
                env=scrubbed(os.environ),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )
        except OSError:
            self._control.close()
            raise
        finally:
            theirs.close()

    def wait_until_warm(self) -> ServerFacts:
        self._control.settimeout(START_SECONDS)
        try:
            facts = self._control.recv(65536)
        except OSError:  # it took too long, or has ended
            facts = b""
        if not facts:
            self.close()
            raise ForkServerError("the process that loads torch did not start; its message is above")
        self._control.settimeout(FORK_SECONDS)
        return ServerFacts(**json.loads(facts))

    def ask(self, header: bytes, descriptors: list[int]) -> None:
        with self._lock:
            socket.send_fds(self._control, [header], descriptors)
            self.served += 1

    def drain(self) -> None:
        """Accept no more jobs, and end after the last child."""
        with self._lock, contextlib.suppress(OSError):
            self._control.send(b"drain")
        self._control.close()

    def close(self) -> None:
        """End now, and kill every child."""
        self._control.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class ForkServers(threading.Thread):
    """Keeps one fork server warm. The kernel kills a server when the thread that started it ends, so this one stays."""

    def __init__(self, *, jobs_per_server: int = JOBS_PER_SERVER) -> None:
        super().__init__(name="fork-servers", daemon=True)
        self._jobs_per_server = jobs_per_server
        self._changed = threading.Condition()
        self._server: _Server | None = None
        self._facts: ServerFacts | None = None
        self._failure: str | None = None
        self._retired: list[_Server] = []
        self._closing = False

    def run(self) -> None:
        """Start a server, watch it, and start the next one when it has died or served its jobs."""
        pause = FIRST_PAUSE_SECONDS
        while not self._closing:
            if self._start():
                pause = FIRST_PAUSE_SECONDS
                self._watch()
            else:
                self._sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        for server in self._retired:
            server.process.kill()
            server.process.wait()
        if self._server is not None:
            self._server.close()

    def facts(self) -> ServerFacts:
        """Wait until a server is warm; return what it reports about itself.

        Raises:
            ForkServerError: it does not start here.
        """
        return self._warm()[1]

    def spawn(
        self, job: bytes, files: Mapping[str, BinaryIO], limits: Limits, *, level: Level, cuda_device: str | None
    ) -> Child:
        """Request a child.

        Args:
            job: JSON of a `Job`.
            files: what the job reads, by the runner's names: model, weights, data.
            limits: of the child.
            level: of its confinement.
            cuda_device: the GPU that it sees, if any.

        Raises:
            ForkServerError: no server can take it.
        """
        request = {"files": list(files), "limits": limits.model_dump(mode="json"), "level": level}
        header = json.dumps({**request, "cuda_device": cuda_device}).encode()
        try:
            return self._ask(header, job, files)
        except (OSError, EOFError):
            self._sleep(POLL_SECONDS)  # it may be replaced at this moment
        try:
            return self._ask(header, job, files)
        except (OSError, EOFError) as error:
            raise ForkServerError(f"the fork server forked no child: {error}") from error

    def close(self) -> None:
        """End the server and its children."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.join(timeout=10)

    def _ask(self, header: bytes, job: bytes, files: Mapping[str, BinaryIO]) -> Child:
        server, _ = self._warm()
        try:
            return spawn(server.ask, header, job, files)
        except TimeoutError:
            server.served = self._jobs_per_server  # replace it, and let its children finish
            raise

    def _start(self) -> bool:
        try:
            server = _Server()
            facts = server.wait_until_warm()
        except (ForkServerError, OSError) as error:  # this thread must go on: the kernel ends every server with it
            _log.error("fork_server_failed", detail=str(error))
            with self._changed:
                self._failure = str(error)
                self._changed.notify_all()
            return False
        with self._changed:
            previous, self._server, self._facts, self._failure = self._server, server, facts, None
            self._changed.notify_all()
        if previous is not None:
            previous.drain()
            self._retired.append(previous)
        return True

    def _watch(self) -> None:
        """Wait until the next server has to be started."""
        server = self._server
        assert server is not None
        while not self._closing and server.served < self._jobs_per_server:
            self._retired = [old for old in self._retired if old.process.poll() is None]
            if server.process.poll() is not None:
                _log.error("fork_server_died", status=server.process.returncode)
                with self._changed:
                    self._server = None
                server.close()
                return
            self._sleep(POLL_SECONDS)

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, timeout=seconds)

    def _warm(self) -> tuple[_Server, ServerFacts]:
        deadline = monotonic() + START_SECONDS
        with self._changed:
            self._changed.wait_for(
                lambda: self._server is not None or self._failure is not None or self._closing,
                timeout=deadline - monotonic(),
            )
            if self._server is None or self._facts is None or self._closing:
                raise ForkServerError(self._failure or "the worker is stopping")
            return self._server, self._facts


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the part of our environment that a process with untrusted models may have."""
    return {name: environment[name] for name in INHERITED_VARIABLES if name in environment} | FIXED_VARIABLES
