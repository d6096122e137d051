"""Tests that need a real server: truncated, slow and concurrent bodies."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

from service.db import migrate

START_SECONDS = 60
ANSWER_SECONDS = 30
PROGRAM = """
from service.logs import configure_logs
from service.settings import Settings
from service.processes.web_server import run_api
configure_logs(level="WARNING")
run_api(Settings.from_environment())
"""
BYTES = os.urandom(100_000)


@dataclass(frozen=True)
class Served:
    """A separate server for this test."""

    port: int
    data_dir: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=ANSWER_SECONDS)

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_SECONDS) as opened:
            yield opened

    def kept_files(self) -> list[Path]:
        """List all files in the store, complete or not."""
        return [path for path in (self.data_dir / "store").rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start gunicorn with its default threads on a free port, for the tests of this module."""
    folder = tmp_path_factory.mktemp("served")
    migrate.upgrade(f"sqlite:///{folder}/gradinspect.db")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    environment = os.environ | {"GRADINSPECT_DATA_DIR": str(folder), "GRADINSPECT_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment)
    try:
        found = Served(port, folder)
        deadline = monotonic() + START_SECONDS
        while True:
            try:
                found.get("/healthz")
                break
            except httpx.TransportError:
                assert process.poll() is None
                assert monotonic() < deadline
                sleep(0.05)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def heading(name: str, *headers: str) -> bytes:
    lines = [f"PUT /v1/artifacts/{name} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode()


def answer(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Return status and JSON of the response that the server sends before it closes the connection."""
    said = b""
    while piece := connection.recv(65536):
        said += piece
    head, _, body = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_a_complete_upload_is_stored(served: Served) -> None:
    with served.connection() as connection:
        connection.sendall(heading(digest(BYTES), f"Content-Length: {len(BYTES)}") + BYTES)
        status, found = answer(connection)
    assert (status, found["size_bytes"]) == (201, len(BYTES))
    assert served.get(f"/v1/artifacts/{digest(BYTES)}").status_code == 200


def test_a_truncated_upload_is_a_400_and_leaves_no_file(served: Served) -> None:
    before = served.kept_files()
    data = os.urandom(50_000)
    with served.connection() as connection:
        connection.sendall(heading(digest(data), f"Content-Length: {len(data)}") + data[:20_000])
        connection.shutdown(socket.SHUT_WR)
        status, found = answer(connection)
    assert (status, found["code"]) == (400, "short_body")
    assert served.get(f"/v1/artifacts/{digest(data)}").status_code == 404
    assert served.kept_files() == before


def test_an_aborted_upload_leaves_no_file(served: Served) -> None:
    before = served.kept_files()
    data = os.urandom(50_000)
    with served.connection() as connection:
        connection.sendall(heading(digest(data), f"Content-Length: {len(data)}") + data[:20_000])
    deadline = monotonic() + ANSWER_SECONDS
    while served.kept_files() != before:
        assert monotonic() < deadline
        sleep(0.02)
    assert served.get("/healthz").status_code == 200


def test_a_wrong_digest_is_a_422_and_leaves_no_file(served: Served) -> None:
    before = served.kept_files()
    with served.connection() as connection:
        connection.sendall(heading(digest(b"others"), "Content-Length: 5") + b"bytes")
        status, found = answer(connection)
    assert (status, found["code"]) == (422, "digest_mismatch")
    assert served.kept_files() == before


@pytest.mark.parametrize("end", [b"", b"5\r\nby", b"5\r\nbytes\r\n0\r\n\r\n"], ids=["nothing", "cut", "whole"])
def test_a_chunked_upload_is_refused_for_its_missing_length(served: Served, end: bytes) -> None:
    with served.connection() as connection:
        connection.sendall(heading(digest(b"bytes"), "Transfer-Encoding: chunked") + end)
        status, found = answer(connection)
    assert (status, found["code"]) == (411, "length_required")


def test_an_upload_that_is_refused_is_answered_before_its_body(served: Served) -> None:
    with served.connection() as connection:
        connection.sendall(heading("model.pt", f"Content-Length: {2**30}"))
        status, found = answer(connection)
    assert (status, found["code"]) == (422, "invalid_request")


def test_the_server_answers_while_a_hundred_uploads_are_slow(served: Served) -> None:
    data = os.urandom(200_000)
    with ExitStack() as opened, ThreadPoolExecutor(8) as pool:
        connections = [opened.enter_context(served.connection()) for _ in range(100)]
        for place, connection in enumerate(connections):
            connection.sendall(heading(digest(data), f"Content-Length: {len(data)}") + data[: 100 + place])
        probes = list(pool.map(served.get, ["/healthz"] * 40 + ["/v1/models"] * 10))
        assert [probe.status_code for probe in probes] == [200] * 50
        # Two processes accept sixteen uploads each; the others were asked to retry, and left no file.
        assert 0 < len(list((served.data_dir / "store" / "incoming").iterdir())) <= 32
    deadline = monotonic() + ANSWER_SECONDS
    while list((served.data_dir / "store" / "incoming").iterdir()):
        assert monotonic() < deadline
        sleep(0.02)


def test_other_requests_are_served_while_many_clients_wait(served: Served) -> None:
    body = {"model": {"spec": {"input": {"shape": [4]}, "layers": [{"type": "Linear", "out_features": 2}]}}}
    place = httpx.post(f"http://127.0.0.1:{served.port}/v1/inspections", json=body).headers["Location"]
    with ThreadPoolExecutor(100) as pool:
        waiting = [pool.submit(served.get, f"{place}?wait=20") for _ in range(100)]
        assert served.get("/healthz").status_code == 200
        cancelled = httpx.post(f"http://127.0.0.1:{served.port}{place}/cancel", timeout=ANSWER_SECONDS)
        assert cancelled.status_code == 200
        found = [answered.result().json()["status"] for answered in waiting]
    assert set(found) <= {"queued", "cancelled"}
    assert "cancelled" in found


HALF_A_HEADER = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: "
HALF_A_BODY = (
    b"POST /v1/inspections HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 500\r\n\r\n{"
)
HALF_A_CHUNK = HALF_A_BODY.replace(b"Content-Length: 500", b"Transfer-Encoding: chunked").replace(b"{", b"ff\r\n{")
UNREAD = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 8


@pytest.mark.parametrize("sent", [b"", b"G", HALF_A_HEADER, HALF_A_BODY, HALF_A_CHUNK, UNREAD])
def test_more_slow_clients_than_threads_do_not_stop_the_server(served: Served, sent: bytes) -> None:
    with ExitStack() as opened:
        for _ in range(300):
            connection = opened.enter_context(served.connection())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(sent)
        # All of them wait for longer than these requests may take.
        assert httpx.get(f"http://127.0.0.1:{served.port}/healthz", timeout=8).status_code == 200
        assert httpx.get(f"http://127.0.0.1:{served.port}/v1/models", timeout=8).status_code == 200


@pytest.mark.parametrize("chunks", [b"-2\r\n{}\r\n0\r\n\r\n", b"zz\r\n", b"2\r\n{}0\r\n\r\n", b"f" * 20 + b"\r\n{}"])
def test_broken_chunks_are_a_bad_request_at_once(served: Served, chunks: bytes) -> None:
    with served.connection() as connection:
        connection.settimeout(8)
        connection.sendall(HALF_A_CHUNK.partition(b"ff\r\n")[0] + chunks)
        head = connection.recv(65536)
    assert head.startswith(b"HTTP/1.1 400 ")


def test_a_chunked_body_is_read(served: Served) -> None:
    with served.connection() as connection:
        start = HALF_A_CHUNK.partition(b"ff\r\n")[0].replace(b"Host", b"Connection: close\r\nHost")
        for piece in (start, b'9\r\n{"model":', b"\r\n1;x=y\r\n1\r\n", b"1\r\n}\r\n0\r\n", b"\r\n"):
            connection.sendall(piece)
        status, found = answer(connection)
    assert (status, found["code"]) == (422, "invalid_request")


def test_a_request_without_a_host_is_a_bad_request(served: Served) -> None:
    with served.connection() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_requests_of_one_connection_are_answered_in_order(served: Served) -> None:
    requests = [
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]
    with served.connection() as connection:
        connection.sendall(requests[0] + requests[1] + requests[0].replace(b"Host", b"Connection: close\r\nHost"))
        said = b""
        while piece := connection.recv(65536):
            said += piece
    assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"404", b"200"]


def test_events_arrive_without_delay(served: Served) -> None:
    body = {"model": {"spec": {"input": {"shape": [4]}, "layers": [{"type": "Linear", "out_features": 2}]}}}
    place = httpx.post(f"http://127.0.0.1:{served.port}/v1/inspections", json=body).headers["Location"]
    address = f"http://127.0.0.1:{served.port}{place}"
    names = []
    with httpx.stream("GET", f"{address}/events", timeout=ANSWER_SECONDS) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                names.append(line.removeprefix("event: "))
                if names == ["progress"]:
                    httpx.post(f"{address}/cancel", timeout=ANSWER_SECONDS)
    assert names == ["progress", "ended"]


@pytest.mark.slow
def test_a_stalled_upload_is_aborted(served: Served) -> None:
    with served.connection() as connection:
        connection.settimeout(90)
        connection.sendall(heading(digest(BYTES), f"Content-Length: {len(BYTES)}") + BYTES[:100])
        status, found = answer(connection)
    assert (status, found["code"]) == (400, "short_body")
