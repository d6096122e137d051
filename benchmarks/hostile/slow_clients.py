"""Whether the API answers while thousands of clients are slow: /healthz during half-open and stalled connections.

    python -m benchmarks.hostile.slow_clients                 # starts and stops an API on SQLite; a minute
    python -m benchmarks.hostile.slow_clients --seconds 10 --half-open 130 --stalled 0 --readers 0 --wrong 0

Four kinds at once: connections that stop in the middle of their header, JSON bodies that stop, readers that take no
byte of /openapi.json, and bodies of 1 MB of wrong JSON, spread over the time. A closed connection is opened again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

GOAL_MILLISECONDS = 200
PROGRAM = """
from service.db import migrate
from service.logs import configure_logs
from service.settings import Settings
from service.processes.web_server import run_api
configure_logs(level="WARNING")
settings = Settings.from_environment()
migrate.upgrade(settings.database_url)
run_api(settings)
"""
WRONG = b'{"model":"x","diagnostics":[' + b",".join([b"1"] * 500_000) + b"]}"
HALF_OPEN = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nA: "
STALLED = (
    b"POST /v1/inspections HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 5000\r\n\r\n{"
)
READER = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 4
POST = (
    b"POST /v1/inspections HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(WRONG), WRONG)
)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("half-open", 1000), ("stalled", 1000), ("readers", 200), ("wrong", 500), ("seconds", 60)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--clients-of", type=int, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    asyncio.run(measure() if chosen.clients_of is None else attack(chosen))


async def attack(chosen: argparse.Namespace) -> None:
    """Be all clients, for the seconds that were asked for."""
    seen: Counter[str] = Counter()
    port = chosen.clients_of
    clients = [
        *(slow(port, HALF_OPEN, "half-open", seen) for _ in range(chosen.half_open)),
        *(slow(port, STALLED, "stalled", seen) for _ in range(chosen.stalled)),
        *(slow(port, READER, "readers", seen, reads=False) for _ in range(chosen.readers)),
        wrong_bodies(port, chosen.wrong, chosen.seconds, seen),
    ]
    tasks = [asyncio.create_task(client) for client in clients]
    await asyncio.sleep(chosen.seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for name, count in sorted(seen.items()):
        print(f"{name}: {count}")


async def measure() -> None:
    """Look at /healthz ten times a second while another process is the clients."""
    async with api() as (port, pid):
        idle = memory_mib(pid)
        clients = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.hostile.slow_clients", *sys.argv[1:], "--clients-of", str(port)]
        )
        times, most = [], idle
        while clients.poll() is None:
            times.append(await health(port))
            most = max(most, memory_mib(pid)) if len(times) % 10 == 0 else most
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        after = [await health(port) for _ in range(10)]
        worst, p99 = max(times), statistics.quantiles(times, n=100)[98]
        print(f"/healthz: {len(times)} looks, p99 {p99:.0f} ms (goal {GOAL_MILLISECONDS}), worst {worst:.0f} ms")
        print(f"2 s after: worst {max(after):.0f} ms; memory idle {idle:.0f} MiB, most {most:.0f} MiB")


async def slow(port: int, data: bytes, name: str, seen: Counter[str], *, reads: bool = True) -> None:
    """Send an incomplete request, or read no answer, and begin again when the server closes."""
    loop = asyncio.get_running_loop()
    while True:
        with socket.socket() as connection:
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            try:
                await loop.sock_connect(connection, ("127.0.0.1", port))
                await loop.sock_sendall(connection, data)
                seen[f"{name} opened"] += 1
                while reads and await loop.sock_recv(connection, 4096):
                    pass
                await asyncio.sleep(0 if reads else 30)
            except OSError:
                seen[f"{name} refused"] += 1
            await asyncio.sleep(0.2)


async def wrong_bodies(port: int, count: int, seconds: float, seen: Counter[str]) -> None:
    """Send the wrong bodies, evenly over the time."""

    async def one() -> None:
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(POST)
            line = await asyncio.wait_for(reader.readline(), 60)
            seen[f"wrong bodies answered {line.split()[1].decode() if line else 'nothing'}"] += 1
            writer.close()

    sent = []
    for _ in range(count):
        sent.append(asyncio.create_task(one()))
        await asyncio.sleep(0.9 * seconds / count)
    await asyncio.gather(*sent)


async def health(port: int) -> float:
    """Return the milliseconds of one look; a minute if there is no answer."""
    started = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEALTH)
        line = await asyncio.wait_for(reader.readline(), 30)
        writer.close()
    except (TimeoutError, OSError):
        return 60_000.0
    return 1000 * (time.perf_counter() - started) if b" 200 " in line else 60_000.0


@contextlib.asynccontextmanager
async def api() -> AsyncIterator[tuple[int, int]]:
    """Start an API on a free port; yield the port and the process id."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="gi-slow-") as directory:
        environment = os.environ | {"GRADINSPECT_DATA_DIR": directory, "GRADINSPECT_PORT": str(port)}
        process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=subprocess.DEVNULL)
        try:
            while await health(port) >= 60_000:
                await asyncio.sleep(0.1)
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def memory_mib(pid: int) -> float:
    """Return the proportional memory of a process and its children in MiB."""
    total = 0.0
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError, ValueError, StopIteration):
            lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            if str(pid) in (lines["Pid"].strip(), lines["PPid"].strip()):
                rollup = (status.parent / "smaps_rollup").read_text()
                total += int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1]) / 1024
    return total


if __name__ == "__main__":
    main()
