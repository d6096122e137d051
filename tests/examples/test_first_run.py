"""`make run`: it writes to the service that it started, and to no other."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "examples" / "first_run.py"


class OtherService(BaseHTTPRequestHandler):
    """Answers 200 to everything, as a service that is ready would."""

    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def other_service() -> Iterator[tuple[int, list[str]]]:
    """Give the port of a running server and the list of the requests that reach it."""
    received: list[str] = []
    handler = type("Handler", (OtherService,), {"requests": received})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, received
        server.shutdown()
        thread.join()


def test_a_taken_port_is_reported_and_the_service_on_it_gets_no_request(
    other_service: tuple[int, list[str]], tmp_path: Path
) -> None:
    port, received = other_service
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--port", str(port), "--data-dir", str(tmp_path / "data"), "--once"],
        capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 is taken" in done.stderr
    assert done.stdout == ""
    assert received == []
