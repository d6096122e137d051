"""Cost of storage: uploads, rows of results, and lists over many rows, next to the goals.

Run with `python -m benchmarks.storage [--rows 1000000] [--gibibytes 1]`; PostgreSQL is started for the run.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.rows import SignalStatistics
from service.db import leases, migrate
from service.db.engine import Database
from service.db.lists import row_queries
from service.db.lists.row_filters import RowQuery
from service.db.results import flattening as rows
from service.db.results import writing as results
from service.db.results.flattening import Value
from service.db.results.tables import LayerRecord
from service.query_strings import validate_query
from service.store.local import LocalStore
from tests.support.servers import PostgresServer, running
from tests.support.specimens import TENANT, end_well, layer, make_report, submit, take

PIECE = bytes(range(256)) * 1024
LAYERS_OF_A_REPORT = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--gibibytes", type=float, default=1.0)
    options = parser.parse_args()
    print(f"{'what':58} {'measured':>12} {'goal':>12}")
    measure_ingest(int(options.gibibytes * 2**30))
    for server in running(PostgresServer(is_durable=True)):
        assert isinstance(server, PostgresServer)
        server.execute("CREATE DATABASE benchmark")
        measure_database("PostgreSQL", server.url("benchmark"), options.rows)
    with tempfile.TemporaryDirectory() as directory:
        measure_database("SQLite", f"sqlite:///{directory}/benchmark.db", options.rows)


def measure_ingest(size_bytes: int) -> None:
    """Compare an upload with sha256 alone, interleaved."""
    directory = Path(tempfile.mkdtemp(dir=Path.cwd()))  # on a disk: /tmp may be memory
    store = LocalStore(directory)
    ratios, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for _ in range(3):
            bare = seconds(partial(hash_alone, size_bytes))
            put = partial(upload, store, size_bytes)
            ratios.append(seconds(put) / bare)
            for tenant, digest in store.artifacts.listed(older_than_seconds=0):
                store.artifacts.delete(digest, tenant=tenant)
    finally:
        shutil.rmtree(directory)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    show(f"ingest of {size_bytes / 2**30:g} GiB, times sha256 alone", f"{median(ratios):.2f}", "1.30")
    show("ingest, resident memory over idle", f"{grown:.0f} MiB", "64 MiB")


def upload(store: LocalStore, size_bytes: int) -> None:
    """Receive bytes and keep them."""
    with store.artifacts.receive(pieces(size_bytes), tenant=TENANT, limit=size_bytes) as received:
        received.keep()


def measure_database(name: str, url: str, row_count: int) -> None:
    migrate.upgrade(url)
    database = Database(url)
    random = Random(0)
    try:
        measure_storing(name, database, make_big_report(random))
        for _ in range(row_count // LAYERS_OF_A_REPORT):
            end_well(database, report=make_big_report(random))
        measure_lists(f"{name}, {row_count:,} rows", database)
    finally:
        database.dispose()


def measure_storing(name: str, database: Database, report: Report) -> None:
    """Compare the delivery of an inspection with the bulk insert alone, with the same indexes, interleaved."""
    ratios = []
    for _ in range(7):
        other = submit(database)
        owner = results.RowOwner(other.id, TENANT, other.model_id)
        values = list(results.rows_of(rows.LAYERS, report.layers, owner))
        bare = seconds(partial(bulk_insert_alone, database, values))
        claim = take(database, submit(database).id)
        ratios.append(seconds(partial(finish, database, claim, report)) / bare)
    show(f"{name}: storing {LAYERS_OF_A_REPORT:,} layers, times bulk insert", f"{median(ratios):.2f}", "1.30")


def measure_lists(name: str, database: Database) -> None:
    cases: dict[str, list[tuple[str, str]]] = {
        "few rows meet an indexed filter": [("backward_gain__lt", "1e-9")],
        "most rows meet it": [("backward_gain__lt", "1e3")],
        "sorted": [("sort", "-signal_rms")],
        "newest": [],
    }
    for label, params in cases.items():
        show(f"{name}: {label}, p95", f"{p95(database, params):.1f} ms", "20 ms")
        deep = [*params, ("cursor", far_cursor(database, params))]
        show(f"{name}: {label}, page 101, p95", f"{p95(database, deep):.1f} ms", "20 ms")


def layer_query(params: list[tuple[str, str]]) -> RowQuery:
    return validate_query(row_queries.LayerQuery, dict(params))


def far_cursor(database: Database, params: list[tuple[str, str]]) -> str:
    cursor: list[tuple[str, str]] = []
    for _ in range(100):
        with database.read() as session:
            page = row_queries.layers(session, layer_query([*params, *cursor]), tenant=TENANT)
        if page.next_cursor is None:
            break
        cursor = [("cursor", page.next_cursor)]
    return cursor[0][1]


def p95(database: Database, params: list[tuple[str, str]]) -> float:
    times = []
    query = layer_query(params)
    for _ in range(60):
        with database.read() as session:
            start = perf_counter()
            row_queries.layers(session, query, tenant=TENANT)
            times.append(perf_counter() - start)
    return sorted(times)[57] * 1000


def bulk_insert_alone(database: Database, values: list[tuple[Value, ...]]) -> None:
    """Return the statement with values that are ready."""
    with database.write() as session:
        results.bulk_insert(session, LayerRecord.__tablename__, results.columns_of(rows.LAYERS), values)


def finish(database: Database, claim: leases.Claim, report: Report) -> None:
    with database.write() as session:
        assert leases.finish(session, claim.lease, report, report_key="key")


def make_big_report(random: Random) -> Report:
    def gain() -> float:
        return random.lognormvariate(-10, 5)

    return make_report(
        tuple(
            layer(
                position,
                backward_gain=gain() if position % 7 else None,
                forward_gain=gain(),
                cumulative_backward_gain=gain(),
                signal=SignalStatistics(norm=gain(), rms=gain()),
            )
            for position in range(LAYERS_OF_A_REPORT)
        )
    )


def pieces(size_bytes: int) -> Iterator[bytes]:
    for _ in range(size_bytes // len(PIECE)):
        yield PIECE


def hash_alone(size_bytes: int) -> None:
    digest = hashlib.sha256()
    for piece in pieces(size_bytes):
        digest.update(piece)


def seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def show(what: str, measured: str, goal: str) -> None:
    print(f"{what:58} {measured:>12} {goal:>12}", flush=True)


if __name__ == "__main__":
    main()
