"""Lists over 1,000,000 layer rows in PostgreSQL: p95 of every documented filter, page 1 and page 1,000.

Run with `python -m benchmarks.rows [--rows 1000000] [--explain benchmarks/results/rows-explain.txt]`; PostgreSQL is
started for the run. Goal: 20 ms for every page, however deep in the list. It is compared with the CPU time of this
process and the server; the wall time, which a shared machine increases, is shown next to it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.orm import Session

from benchmarks.history import LAYERS_EACH, START, load, model_id
from service.db import migrate
from service.db.engine import Database
from service.db.lists import queries, row_queries
from service.db.lists.queries import InspectionListQuery
from service.db.results.tables import INDEXED_LAYER_FIELDS, INDEXED_PARAMETER_FIELDS
from service.query_strings import QueryT, validate_query
from tests.support.servers import PostgresServer, running
from tests.support.specimens import TENANT

GOAL_MS, DEEP_PAGE, PAGE = 20.0, 1000, 50
Params = list[tuple[str, str]]
List = Callable[[Session, Params], Any]  # Any: a page of any kind


@dataclass(frozen=True)
class Case:
    """One list with its filters and order."""

    noun: str
    params: Params
    what: str = ""

    @property
    def title(self) -> str:
        query = "&".join(f"{name}={value if len(value) < 24 else value[:9] + '…'}" for name, value in self.params)
        return f"{self.noun}{'?' + query if query else ''}"


def read(model: type[QueryT], params: Params) -> QueryT:
    """Read a query string as the API does; `label` is the one parameter that may be repeated."""
    values: dict[str, object] = dict(params)
    labels = [value for name, value in params if name == "label"]
    return validate_query(model, values | ({"label": labels} if labels else {}))


LISTS: dict[str, List] = {
    "/v1/inspections": lambda session, params: queries.inspections(
        session, read(InspectionListQuery, params), tenant=TENANT
    ),
    "/v1/layers": lambda session, params: row_queries.layers(
        session, read(row_queries.LayerQuery, params), tenant=TENANT
    ),
    "/v1/parameters": lambda session, params: row_queries.parameters(
        session, read(row_queries.ParameterQuery, params), tenant=TENANT
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--explain", type=Path)
    parser.add_argument("--repeat", type=int, default=40)
    options = parser.parse_args()
    for server in running(PostgresServer()):
        assert isinstance(server, PostgresServer)
        server.execute("CREATE DATABASE benchmark")
        migrate.upgrade(server.url("benchmark"))
        database = Database(server.url("benchmark"))
        try:
            measure(database, options.rows, options.repeat, options.explain)
        finally:
            database.dispose()


def measure(database: Database, row_count: int, repeat: int, explain: Path | None) -> None:
    start = perf_counter()
    inspections = load(database, row_count // LAYERS_EACH)
    print(f"{row_count:,} layer rows of {len(inspections):,} inspections, loaded in {perf_counter() - start:.0f} s\n")
    plans: list[str] = []
    print(HEAD, flush=True)
    results = [show(database, case, repeat, plans, GOAL_MS) for case in cases(inspections)]
    print(
        f"\n{results.count(False)} of {len(results)} over {GOAL_MS:g} ms\n\nNumbers without an index, for comparison:\n"
    )
    print(HEAD, flush=True)
    for case in unindexed():
        show(database, case, min(repeat, 10), plans, None)
    if explain is not None:
        explain.parent.mkdir(parents=True, exist_ok=True)
        explain.write_text("\n".join(plans), encoding="utf-8")


HEAD = (
    f"| {'list':68} | page 1: CPU | wall | blocks | page | CPU | wall | blocks | goal |\n"
    f"|{'-' * 70}|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def show(database: Database, case: Case, repeat: int, plans: list[str], goal: float | None) -> bool:
    """Measure one list and print its row; return whether it met the goal."""
    number, cursor = deep(database, case)
    cells, slowest = [], 0.0
    for place, at in (("page 1", None), (f"page {number}", cursor)):
        cpu, wall = p95(database, case, at, repeat)
        lines = explained(database, case, at)
        cells.append(f"{cpu:.1f} ms | {wall:.1f} ms | {blocks_of(lines)}")
        slowest = max(slowest, cpu)
        plans += [f"== {case.title}, {place}", *lines, ""]
    kept = goal is None or slowest <= goal
    said = f"{goal:g} ms" if goal is not None else "none"
    print(
        f"| {case.title:68} | {cells[0]} | {number:,} | {cells[1]} | {said} |{'' if kept else '  MISSED'}", flush=True
    )
    return kept


def blocks_of(plan: Sequence[str]) -> int:
    """Return the blocks of 8 KiB that the statements read: a cost that other processes do not change."""
    tops = [line for before, line in pairwise(plan) if "Buffers:" in line and not before.startswith("  ")]
    return sum(
        int(count)
        for line in tops
        for count in re.findall(r"shared hit=(\d+)|read=(\d+)", line)
        for count in count
        if count
    )


def cases(inspections: Sequence[str]) -> list[Case]:
    """List every documented filter, alone and in the combinations that pages and audits use."""
    middle = (START + timedelta(minutes=len(inspections) // 2)).isoformat()
    model = model_id(7)
    found = [Case("/v1/inspections", [])]
    found += [Case("/v1/inspections", [pair]) for pair in (
        ("status", "succeeded"), ("status", "failed"), ("verdict", "warn"), ("verdict", "undetermined"),
        ("model", model), ("label", "team=vision"), ("label", "team"), ("label", "commit=c77"),
        ("rule", "vanishing_signal"), ("rule", "sharpness"), ("rule", "non_finite"),
        ("created_after", middle), ("created_before", middle),
    )]  # fmt: skip
    found += [
        Case("/v1/inspections", [("model", model), ("verdict", "fail")]),
        Case("/v1/inspections", [("rule", "vanishing_signal"), ("label", "team=vision")]),
        Case("/v1/inspections", [("rule", "sharpness"), ("verdict", "fail"), ("created_after", middle)]),
    ]
    found += numbers("/v1/layers", INDEXED_LAYER_FIELDS)
    found += [Case("/v1/layers", [pair]) for pair in (
        ("name", "7"), ("name", "block.3"), ("kind", "Linear"), ("kind", "Embedding"), ("nonlinearity", "gelu"),
        ("model", model), ("inspection", inspections[len(inspections) // 2]),
    )]  # fmt: skip
    found += [
        Case("/v1/layers", []),
        Case("/v1/layers", [("backward_gain__lt", "1e-3"), ("kind", "Linear")]),
        Case("/v1/layers", [("backward_gain__lt", "1e-3"), ("model", model)]),
        Case("/v1/layers", [("kind", "Linear"), ("sort", "-signal_rms")]),
        Case("/v1/layers", [("dead_unit_fraction__gt", "0.5"), ("sort", "cumulative_backward_gain")]),
    ]
    found += numbers("/v1/parameters", INDEXED_PARAMETER_FIELDS)
    found += [Case("/v1/parameters", [pair]) for pair in (
        ("name", "7.weight"), ("layer", "7"), ("dtype", "float32"), ("status", "frozen"), ("model", model),
        ("inspection", inspections[len(inspections) // 2]),
    )]  # fmt: skip
    return found


def unindexed() -> list[Case]:
    """Return the function that reads one page."""
    return [
        Case("/v1/layers", [("measured_chi1__gt", "1e-6")]),
        Case("/v1/layers", [("measured_chi1__lt", "1e-15")]),
        Case("/v1/layers", [("sort", "-measured_chi1")]),
        Case("/v1/parameters", [("weight_norm__gt", "1e-6")]),
        Case("/v1/parameters", [("weight_norm__lt", "1e-15")]),
    ]


def numbers(noun: str, fields: Sequence[str]) -> list[Case]:
    """List a number as a filter that few rows match, as one that most rows match, and as the sort order."""
    found = []
    for field in fields:
        found += [Case(noun, [(f"{field}__lt", few(field))]), Case(noun, [(f"{field}__gt", few(field))])]
        found.append(Case(noun, [("sort", f"-{field}")]))
    return found


def few(field: str) -> str:
    return "1" if field.endswith("_count") else "1e-6"


def p95(database: Database, case: Case, cursor: str | None, repeat: int) -> tuple[float, float]:
    """Return milliseconds of CPU (this process and the server) and of wall time, which is longer on a shared machine.

    The connection is kept open, as in the service.
    """
    params = [*case.params, *([("cursor", cursor)] if cursor is not None else [])]
    busy, wall = [], []
    with database.read() as session:
        server = session.scalar(text("SELECT pg_backend_pid()"))
        for _ in range(repeat):
            start, computed = perf_counter(), process_time() + run_seconds(server)
            LISTS[case.noun](session, params)
            busy.append(process_time() + run_seconds(server) - computed)
            wall.append(perf_counter() - start)
            if sum(wall) > 4.0 and len(wall) >= 5:
                break  # far over the goal or on a busy machine, a rough value suffices
    return percentile(busy) * 1000, percentile(wall) * 1000


def run_seconds(process: int) -> float:
    """Return the CPU time of a process, which other processes do not change."""
    return int(Path(f"/proc/{process}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def percentile(values: list[float]) -> float:
    return sorted(values)[max(-(-len(values) * 95 // 100) - 1, 0)]


def deep(database: Database, case: Case) -> tuple[int, str | None]:
    """Return the cursor of page 1,000, or of the last page."""
    cursor: str | None = None
    page = 1
    with database.read() as session:
        while page < DEEP_PAGE:
            step = min(DEEP_PAGE - page, 10)
            at = [("cursor", cursor)] if cursor is not None else []
            found = LISTS[case.noun](session, [*case.params, *at, ("limit", str(step * PAGE))])
            if found.next_cursor is None:
                return page, cursor
            cursor, page = found.next_cursor, page + step
    return page, cursor


def explained(database: Database, case: Case, cursor: str | None) -> list[str]:
    """Return the plan of a page from PostgreSQL, with its buffers."""
    params = [*case.params, *([("cursor", cursor)] if cursor is not None else [])]
    statements: list[tuple[str, Any]] = []  # Any: the driver's parameters
    with database.read() as session, seen(database, statements):
        LISTS[case.noun](session, params)
    with database.engine.connect() as connection:
        return [
            line
            for statement, arguments in statements
            for (line,) in connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", arguments)
        ]


@contextmanager
def seen(database: Database, statements: list[tuple[str, Any]]) -> Iterator[None]:
    def note(_connection: Any, _cursor: Any, statement: str, arguments: Any, *_: Any) -> None:  # Any: SQLAlchemy's own
        statements.append((statement, arguments))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


if __name__ == "__main__":
    main()
