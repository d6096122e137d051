"""What each process imports and inherits: no torch with the database, no secret with torch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradinspect.contracts.document import from_python
from gradinspect.contracts.wire.messages import Job, Limits
from service.db import migrate
from service.db.workers import OneWorker
from service.settings import Settings, SettingsError
from tests.support.queueing import SPEC, wait_until
from tests.support.specimens import write_worker
from workers.commands import worker
from workers.supervisor.app import make_app
from workers.supervisor.fork_client import ForkServers, scrubbed

GIVEN = [name for name in os.environ if name.startswith("GRADINSPECT_")]


def modules_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_worker_process_never_imports_torch() -> None:
    loaded = modules_after("import workers.supervisor.running, workers.commands, workers.supervisor.tasks")
    assert "celery" in loaded
    assert "torch" not in loaded


def test_the_runner_imports_neither_service_nor_broker() -> None:
    loaded = modules_after("import workers.child.forkserver, workers.child.runner")
    assert "torch" in loaded
    assert not loaded & {"service", "celery", "redis", "sqlalchemy", "flask"}


def test_the_fork_server_inherits_no_secret_variable() -> None:
    ours = {"GRADINSPECT_DATABASE_URL": "postgresql://secret", "AWS_SECRET_ACCESS_KEY": "x", "PATH": "/bin"}
    found = scrubbed(ours)
    assert found["PATH"] == "/bin"
    assert found["OMP_NUM_THREADS"] == found["OPENBLAS_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "1"
    assert "secret" not in repr(found)
    assert "AWS_SECRET_ACCESS_KEY" not in found


def test_a_fork_server_that_has_served_its_jobs_is_replaced() -> None:
    limits = Limits()
    job = from_python(
        Job, {"source": {"kind": "spec", "spec": SPEC}, "settings": {}, "limits": limits.model_dump(mode="json")}
    )
    servers = ForkServers(jobs_per_server=1)
    servers.start()
    try:
        servers.facts()
        first = servers._server
        assert first is not None
        servers.spawn(job.model_dump_json().encode(), {}, limits, level="limits", cuda_device=None).close()
        wait_until(lambda: servers._server is not first, "it is replaced")
        wait_until(lambda: first.process.poll() is not None, "the first one has ended")
        second = servers._server
    finally:
        servers.close()
    assert second is not None
    assert second.process.poll() is not None


def settings(**fields: object) -> Settings:
    return Settings.from_environment({}, **{"broker_url": "redis://127.0.0.1:1/0", **fields})


def test_celery_decides_nothing_about_retries() -> None:
    conf = make_app(settings(job_wall_seconds=7000.0, worker_slots=3)).conf
    assert conf.task_acks_late
    assert not conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.task_ignore_result
    assert conf.accept_content == ["json"]
    assert not conf.worker_cancel_long_running_tasks_on_connection_loss
    assert not conf.worker_enable_remote_control
    assert conf.worker_concurrency == 3
    options = conf.broker_transport_options
    assert options["visibility_timeout"] > 7000
    assert (options["unacked_restore_interval"], options["unacked_restore_throttle"]) == (5, 1)
    assert options["socket_timeout"] > 0
    assert options["health_check_interval"] > 0


def test_a_worker_without_a_broker_names_the_setting() -> None:
    with pytest.raises(SettingsError, match="GRADINSPECT_BROKER_URL"):
        make_app(Settings.from_environment({}))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slots", "0"], "GRADINSPECT_WORKER_SLOTS"),
        (["--queues", "gpu"], "GRADINSPECT_QUEUES"),
        ([], "GRADINSPECT_BROKER_URL"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_line_with_exit_status_2(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(worker, arguments, env=dict.fromkeys(GIVEN))
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_check_reports_whether_a_worker_of_this_host_is_alive(data_dir: Path) -> None:
    given = Settings.from_environment({}, data_dir=data_dir)
    arguments = ["--check", "--data-dir", str(data_dir)]
    assert CliRunner().invoke(worker, arguments, env=dict.fromkeys(GIVEN)).exit_code == 1  # no database either
    migrate.upgrade(given.database_url)
    for name, expected in (("elsewhere-1", 1), (f"{socket.gethostname()}-1", 0)):
        alive = OneWorker(name=name, queues=("cpu",), slots=1, torch_version="2", confinement="full", limits=Limits())
        write_worker(given, alive)
        assert CliRunner().invoke(worker, arguments, env=dict.fromkeys(GIVEN)).exit_code == expected
