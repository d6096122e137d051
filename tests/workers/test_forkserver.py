"""The fork server survives a failed request, and the worker a failed fork server."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import pytest

from gradinspect.contracts.wire.messages import Limits
from tests.support.queueing import wait_until
from workers.child import confinement, forkserver
from workers.supervisor import fork_client
from workers.supervisor.children import spawn
from workers.supervisor.fork_client import ForkServerError, ForkServers, ServerFacts

FACTS = ServerFacts("2", "full", "")


def out_of_processes(*_: object, **__: object) -> None:
    raise BlockingIOError(11, "Resource temporarily unavailable")


def test_a_failed_fork_fails_one_job_and_not_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(os, "fork", out_of_processes)
    server = threading.Thread(target=forkserver._serve, args=(theirs,), daemon=True)
    server.start()
    header = json.dumps({"files": [], "limits": Limits().model_dump(), "level": "limits", "cuda_device": None})

    def ask(packet: bytes, descriptors: list[int]) -> None:
        socket.send_fds(control, [packet], descriptors)

    open_files = []
    for _ in range(3):
        with pytest.raises(EOFError):
            spawn(ask, header.encode(), b"{}", {})
        open_files.append(len(list(Path("/proc/self/fd").iterdir())))
    assert len(set(open_files)) == 1, open_files
    control.send(forkserver.DRAIN)
    server.join(timeout=20)
    assert not server.is_alive()
    control.close()
    theirs.close()


class PretendProcess:
    def __init__(self) -> None:
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None: ...

    def wait(self) -> None: ...


class PretendServer:
    """A fake server that is warm immediately."""

    made = 0

    def __init__(self) -> None:
        self.process = PretendProcess()
        self.served = 0
        type(self).made += 1

    def wait_until_warm(self) -> ServerFacts:
        return FACTS

    def ask(self, header: bytes, descriptors: list[int]) -> None: ...

    def drain(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def keep(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServers]:
    """Make a keeper of fake servers, not started."""
    monkeypatch.setattr(PretendServer, "made", 0)
    monkeypatch.setattr(fork_client, "_Server", PretendServer)
    monkeypatch.setattr(fork_client, "FIRST_PAUSE_SECONDS", 0.05)
    servers = ForkServers()
    yield servers
    servers.close()


def test_starting_a_server_is_retried(keep: ForkServers, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [1, 1]
    make = PretendServer.__init__

    def fail_twice(server: PretendServer) -> None:
        if failures:
            failures.pop()
            out_of_processes()
        make(server)

    monkeypatch.setattr(PretendServer, "__init__", fail_twice)
    keep.start()
    with pytest.raises(ForkServerError, match="temporarily unavailable"):
        keep.facts()
    wait_until(lambda: keep._server is not None, "one is started")
    assert keep.facts() == FACTS


def test_a_server_that_died_is_replaced(keep: ForkServers) -> None:
    keep.start()
    keep.facts()
    first = keep._server
    assert first is not None
    first.process.returncode = -9
    wait_until(lambda: keep._server not in (first, None), "another one is started")
    assert keep.facts() == FACTS


def test_a_server_that_does_not_answer_is_replaced(keep: ForkServers, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(fork_client, "spawn", silent)
    keep.start()
    keep.facts()
    with pytest.raises(ForkServerError, match="timed out"):
        keep.spawn(b"{}", {}, Limits(), level="limits", cuda_device=None)
    wait_until(lambda: PretendServer.made > 1, "another one is started")


def test_a_self_test_that_hangs_ends_with_the_server() -> None:
    reading, writing = os.pipe()

    def hang() -> None:
        os.write(writing, f"{os.getpid()}\n".encode())
        sleep(600)

    server = os.fork()
    if server == 0:
        confinement.reachable_level(hang)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        tester = int(said.readline())
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
        wait_until(lambda: not Path(f"/proc/{tester}").exists(), "it is gone")
