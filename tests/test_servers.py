"""The servers of the tests: killed durable servers keep committed data, and no server outlives the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest
import redis
from sqlalchemy import text

from service.db.engine import Database
from tests.support.servers import PostgresServer, ValkeyServer, running

RUN_OF_A_SERVER = """
import sys, time
sys.path.insert(0, {root!r})
from tests.support.servers import PostgresServer, ValkeyServer
server = {server}()
server.start()
print(server.process.pid, server.directory, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("server", [PostgresServer, ValkeyServer])
def test_the_servers_of_a_killed_run_are_stopped(server: type[PostgresServer | ValkeyServer]) -> None:
    program = RUN_OF_A_SERVER.format(root=str(Path(__file__).parents[1]), server=server.__name__)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid, directory = run.stdout.readline().split()
        os.kill(run.pid, signal.SIGKILL)
    deadline = monotonic() + 10
    while is_alive(int(pid)):
        assert monotonic() < deadline, "the server outlived the run"
        sleep(0.02)
    next_run = server()
    assert not Path(directory).exists(), "the next run removes what the killed one left"
    next_run.stop()


def test_a_killed_durable_postgres_keeps_committed_rows() -> None:
    for server in running(PostgresServer(is_durable=True)):
        assert isinstance(server, PostgresServer)
        server.execute("CREATE TABLE kept (id int)")
        server.kill()
        server.start()
        database = Database(server.url())
        with database.read() as session:
            assert session.scalar(text("SELECT count(*) FROM kept")) == 0
        database.dispose()


def test_a_killed_durable_broker_keeps_accepted_messages() -> None:
    for server in running(ValkeyServer(is_durable=True)):
        assert isinstance(server, ValkeyServer)
        for expected in (None, b"value"):
            with redis.Redis.from_url(server.url) as client:
                assert client.get("key") == expected
                client.set("key", "value")
            server.kill()
            server.start()


def is_alive(pid: int) -> bool:
    """Return whether the process runs; zombies do not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
