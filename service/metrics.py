"""Durations of HTTP requests, counted by each API process and added up at the scrape.

The multi-process mode of prometheus_client must be set by an environment variable before its first import and affects
the whole process. Instead, each process here maps one small file of numbers under the data directory: counting is an
addition in memory, and a scrape by any process sees all files.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from threading import Lock

from prometheus_client.core import HistogramMetricFamily, Metric

# Seconds; chosen: the goal for a GET by id is a fraction of a millisecond, a long poll lasts up to 30 s.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
UNMATCHED = "unmatched"
_CELLS = len(BUCKETS) + 2  # one more bucket to infinity, then the sum of the seconds


class HttpDurations:
    """A histogram for each route, shared by the processes that serve them.

    Args:
        folder: for the files of the processes; created if absent.
        routes: all routes. Processes with the same routes share their counts.
    """

    def __init__(self, folder: Path, routes: Sequence[str]) -> None:
        self._routes = sorted({*routes, UNMATCHED})
        self._offset = {route: index * _CELLS for index, route in enumerate(self._routes)}
        layout = hashlib.sha256(repr((self._routes, BUCKETS)).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._pattern = folder, f"http-{layout}-*.counts"
        self._lock = Lock()
        self._owner = 0
        self._cells: memoryview[float] | None = None

    def observe(self, route: str, seconds: float) -> None:
        """Count one request."""
        first = self._offset.get(route, self._offset[UNMATCHED])
        with self._lock:
            cells = self._own_cells()
            cells[first + bisect_left(BUCKETS, seconds)] += 1
            cells[first + _CELLS - 1] += seconds

    def collect(self) -> Iterator[Metric]:
        """Add up the counts of all processes (the interface of a prometheus collector)."""
        family = HistogramMetricFamily(
            "gradinspect_http_request_duration_seconds", "Time from request to answer, by route.", labels=["route"]
        )
        totals = self._totals()
        for route in self._routes:
            cells = totals[self._offset[route] : self._offset[route] + _CELLS]
            if any(cells[:-1]):
                family.add_metric([route], *cumulative(cells[:-1], cells[-1]))
        yield family

    def _own_cells(self) -> memoryview[float]:
        # A process forked after the first count opens another file. A file of an earlier process with the same id is
        # continued: counters only rise, and the number of files stays bounded.
        if self._cells is None or self._owner != os.getpid():
            self._owner = os.getpid()
            size = 8 * _CELLS * len(self._routes)
            path = self._folder / self._pattern.replace("*", str(self._owner))
            with path.open("a+b") as file:
                file.truncate(size)
                self._cells = memoryview(mmap.mmap(file.fileno(), size)).cast("d")
        return self._cells

    def _totals(self) -> list[float]:
        totals = [0.0] * (_CELLS * len(self._routes))
        for path in self._folder.glob(self._pattern):
            counts = array("d", path.read_bytes())
            if len(counts) == len(totals):
                totals = [total + count for total, count in zip(totals, counts, strict=True)]
        return totals


def cumulative(counts: Sequence[float], total: float) -> tuple[list[tuple[str, float]], float]:
    """Turn plain bucket counts (the last one unbounded) into the cumulative ones of Prometheus."""
    running, buckets = 0.0, []
    for bound, count in zip((*BUCKETS, inf), counts, strict=True):
        running += count
        buckets.append(("+Inf" if bound == inf else str(bound), running))
    return buckets, total
