"""Time from submission to report over HTTP on a warm embedded service, by step.

    python -m benchmarks.latency                  # starts and stops a service
    python -m benchmarks.latency --url http://…   # measures one that runs

The model is a small MLP on a synthetic batch, submitted with `Prefer: wait`, one inspection after another. Steps:
`queue` is from the commit of the row to the claim by a worker; `fork` and `child` are measured by the supervisor, and
`engine` is the part of the child that measures the model; `judge and store` is the rest of the worker's time; `http` is
the rest of the caller's time: acceptance, noticing the end, and two network trips.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from time import perf_counter

import httpx

GOAL_MILLISECONDS = 150
SPEC = {
    "input": {"shape": [64]},
    "layers": [layer for _ in range(4) for layer in ({"type": "Linear", "out_features": 64}, {"type": "ReLU"})]
    + [{"type": "Linear", "out_features": 10}],
}
ROOMS = ("http", "queue", "fork", "child", "of which engine", "judge and store")


@contextmanager
def service() -> Iterator[str]:
    """Start a service on a free port."""
    with tempfile.TemporaryDirectory(prefix="gi-latency-") as directory:
        command = [sys.executable, "-m", "gradinspect", "serve", "--port", "0", "--data-dir", directory]
        environment = {**os.environ, "GRADINSPECT_LOG_LEVEL": "warning"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stdout is not None
            ready = next(found for line in process.stdout if (found := re.search(r"ready at (\S+)", line)))
            yield ready[1]
        finally:
            process.terminate()
            process.wait()


def inspect_once(client: httpx.Client) -> dict[str, float]:
    """Return the milliseconds of one inspection by step."""
    started = perf_counter()
    answer = client.post("/v1/inspections", json={"model": {"spec": SPEC}}, headers={"Prefer": "wait=30"})
    total = perf_counter() - started
    done = answer.raise_for_status().json()
    if done["status"] != "succeeded":
        raise SystemExit(f"the inspection ended as {done['status']}: {done['error']}")
    environment = client.get(done["links"]["report"]).raise_for_status().json()["environment"]
    created, claimed, ended = (datetime.fromisoformat(done[f"{at}_at"]) for at in ("created", "started", "finished"))
    queue, work = (claimed - created).total_seconds(), (ended - claimed).total_seconds()
    fork, child = environment["stages"]["fork"], environment["stages"]["child"]
    seconds = {
        "total": total,
        "http": total - queue - work,
        "queue": queue,
        "fork": fork,
        "child": child,
        "of which engine": environment["wall_seconds"],
        "judge and store": work - fork - child,
    }
    return {room: 1000 * value for room, value in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a service that runs already")
    parser.add_argument("--count", type=int, default=100, help="inspections to time (%(default)s)")
    given = parser.parse_args()
    with service() if given.url is None else _given(given.url) as url, httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(10):
            inspect_once(client)
        times = [inspect_once(client) for _ in range(given.count)]
    load = os.getloadavg()[0]
    print(f"{given.count} inspections of a small MLP, one after another; {os.cpu_count()} CPUs, load {load:.1f}\n")
    print(f"{'milliseconds':18}{'median':>9}{'p95':>9}{'goal':>9}")
    for room in ("total", *ROOMS):
        values = sorted(row[room] for row in times)
        p95 = values[min(len(values) - 1, int(0.95 * len(values)))]
        goal = f"≤ {GOAL_MILLISECONDS}" if room == "total" else ""
        print(f"{'' if room == 'total' else '  '}{room:{18 if room == 'total' else 16}}"
              f"{statistics.median(values):9.1f}{p95:9.1f}{goal:>9}")  # fmt: skip


@contextmanager
def _given(url: str) -> Iterator[str]:
    yield url


if __name__ == "__main__":
    main()
