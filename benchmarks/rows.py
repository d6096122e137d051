"""Lists over a history of 1,000,000 layer rows in PostgreSQL: p95 of every documented filter, page 1 and page 1,000.

Run with `python benchmarks/rows.py [--rows 1000000] [--explain benchmarks/results/rows-explain.txt]`; PostgreSQL is
started for the run. Goal (docs/performance.md): 20 ms, and a page costs the same however far in it lies.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers import PostgresServer, running
from specimens import TENANT, finding, submit
from sqlalchemy import event, text
from sqlalchemy.orm import Session
from uuid_utils import uuid7

from gradinspect.contracts.policy import RULE_IDS
from gradinspect.contracts.report import (
    ActivationStatistics,
    Finding,
    LayerMeasurement,
    Number,
    ParameterMeasurement,
    Quantiles,
    SignalStatistics,
)
from service.db import migrate, queries, results, row_queries, rows
from service.db.engine import Database
from service.db.result_tables import INDEXED_LAYER_FIELDS, INDEXED_PARAMETER_FIELDS
from service.db.results import Place
from service.db.rows import Value
from service.db.tables import InspectionRecord, ModelRecord

GOAL_MS, DEEP_PAGE, PAGE = 20.0, 1000, 50
LAYERS_EACH, PARAMETERS_EACH, MODELS, CHUNK = 50, 20, 200, 1000
KINDS = ("Linear", "Conv2d", "LayerNorm", "Embedding")
NONLINEARITIES = ("relu", "gelu", None)
START = datetime(2026, 1, 1, tzinfo=UTC)
Params = list[tuple[str, str]]
List = Callable[[Session, Params], Any]  # Any: a page of any kind


@dataclass(frozen=True)
class Case:
    """One way to ask for a list."""

    noun: str
    params: Params
    what: str = ""

    @property
    def title(self) -> str:
        query = "&".join(f"{name}={value if len(value) < 24 else value[:9] + '…'}" for name, value in self.params)
        return f"{self.noun}{'?' + query if query else ''}"


LISTS: dict[str, List] = {
    "/v1/inspections": lambda session, params: queries.inspections(session, params, tenant=TENANT),
    "/v1/layers": lambda session, params: row_queries.layers(session, params, tenant=TENANT),
    "/v1/parameters": lambda session, params: row_queries.parameters(session, params, tenant=TENANT),
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
    f"| {'list':68} | page 1, p95 | blocks | deep page | its p95 | blocks | goal |\n"
    f"|{'-' * 70}|---:|---:|---:|---:|---:|---:|"
)


def show(database: Database, case: Case, repeat: int, plans: list[str], goal: float | None) -> bool:
    """Measure one list and print its row; whether it kept the goal."""
    number, cursor = deep(database, case)
    times, blocks = [], []
    for place, at in (("page 1", None), (f"page {number}", cursor)):
        times.append(p95(database, case, at, repeat))
        lines = explained(database, case, at)
        blocks.append(blocks_of(lines))
        plans += [f"== {case.title}, {place}", *lines, ""]
    kept = goal is None or max(times) <= goal
    print(
        f"| {case.title:68} | {times[0]:.1f} ms | {blocks[0]} | {number:,} | {times[1]:.1f} ms | {blocks[1]} | "
        f"{f'{goal:g} ms' if goal is not None else 'none'} |{'' if kept else '  MISSED'}",
        flush=True,
    )
    return kept


def blocks_of(plan: Sequence[str]) -> int:
    """Blocks of 8 KiB that the statements touched: a cost that other processes do not disturb."""
    tops = [line for before, line in pairwise(plan) if "Buffers:" in line and not before.startswith("  ")]
    return sum(
        int(count)
        for line in tops
        for count in re.findall(r"shared hit=(\d+)|read=(\d+)", line)
        for count in count
        if count
    )


def cases(inspections: Sequence[str]) -> list[Case]:
    """Every documented filter, alone and in the combinations that pages and audits ask for."""
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
    """What reads rows until a page is full."""
    return [
        Case("/v1/layers", [("measured_chi1__gt", "1e-6")]),
        Case("/v1/layers", [("measured_chi1__lt", "1e-15")]),
        Case("/v1/layers", [("sort", "-measured_chi1")]),
        Case("/v1/parameters", [("weight_norm__gt", "1e-6")]),
        Case("/v1/parameters", [("weight_norm__lt", "1e-15")]),
    ]


def numbers(noun: str, fields: Sequence[str]) -> list[Case]:
    """A number as a filter that few rows meet, as one that most meet, and as the order."""
    found = []
    for field in fields:
        found += [Case(noun, [(f"{field}__lt", few(field))]), Case(noun, [(f"{field}__gt", few(field))])]
        found.append(Case(noun, [("sort", f"-{field}")]))
    return found


def few(field: str) -> str:
    return "1" if field.endswith("_count") else "1e-6"


def p95(database: Database, case: Case, cursor: str | None, repeat: int) -> float:
    """Milliseconds, the connection kept open, as a service's are."""
    params = [*case.params, *([("cursor", cursor)] if cursor is not None else [])]
    times = []
    with database.read() as session:
        for _ in range(repeat):
            start = perf_counter()
            LISTS[case.noun](session, params)
            times.append(perf_counter() - start)
            if sum(times) > 2.0 and len(times) >= 5:
                break  # far over the goal: no need to know it exactly
    return sorted(times)[max(-(-len(times) * 95 // 100) - 1, 0)] * 1000


def deep(database: Database, case: Case) -> tuple[int, str | None]:
    """Page 1,000 by its cursor, or the last page there is."""
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
    """What PostgreSQL does for a page, with its buffers."""
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


# ---- the history -----------------------------------------------------------------------------------------------------


def load(database: Database, count: int) -> list[str]:
    """Fill a history: inspections a minute apart, with labels, findings, layers and parameters, by COPY."""
    random = Random(0)
    template = submit(database)
    ids = [f"insp_{uuid7()}" for _ in range(count)]
    drawn = [
        (one, model_id(random.randrange(MODELS)), *ended(random), START + timedelta(minutes=index))
        for index, one in enumerate(ids)
    ]
    places = [Place(row[0], TENANT, row[1]) for row in drawn]
    with database.write() as session:
        like(session, ModelRecord, template.model_id, {"id": "TEXT", "is_inline": "BOOLEAN"},
             [(model_id(number), False) for number in range(MODELS)])  # fmt: skip
        like(session, InspectionRecord, template.id, {
            "id": "TEXT", "model_id": "TEXT", "status": "TEXT", "verdict": "TEXT", "created_at": "TIMESTAMPTZ",
        }, drawn)  # fmt: skip
        columns = ("inspection_id", "tenant_id", "key", "value")
        results.bulk_insert(session, "labels", columns, labels(random, ids))
    for begin in range(0, count, CHUNK):  # a statement of ours may take a minute at most
        with database.write() as session:
            for table, shape, make in TABLES:
                values = (
                    value
                    for place in places[begin : begin + CHUNK]
                    for value in results.rows_of(shape, make(random), place)
                )
                results.bulk_insert(session, table, results.columns_of(shape), values)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return ids


def like(
    session: Session, record: type[ModelRecord | InspectionRecord], template: str, kinds: dict[str, str], drawn: Any
) -> None:  # Any: rows of these columns
    """Add rows that are as the template but for some columns."""
    table = record.__tablename__
    session.execute(text(f"CREATE TEMP TABLE drawn ({', '.join(f'{name} {kind}' for name, kind in kinds.items())})"))
    results.bulk_insert(session, "drawn", tuple(kinds), drawn)
    names = [column.name for column in record.__table__.columns]
    chosen = ", ".join(f"{'d' if name in kinds else 't'}.{name}" for name in names)
    session.execute(
        text(
            f"INSERT INTO {table} ({', '.join(names)}) SELECT {chosen} FROM drawn d, {table} t WHERE t.id = :template"
        ),
        {"template": template},
    )
    session.execute(text("DROP TABLE drawn"))


def model_id(number: int) -> str:
    return f"mdl_00000000-0000-7000-8000-{number:012d}"


def ended(random: Random) -> tuple[str, str | None]:
    status = random.choices(("succeeded", "failed", "cancelled", "queued"), (90, 6, 3, 1))[0]
    verdict = random.choices(("pass", "warn", "fail", "undetermined"), (60, 25, 14, 1))[0]
    return status, verdict if status == "succeeded" else None


def labels(random: Random, ids: Sequence[str]) -> Iterator[tuple[Value, ...]]:
    for index, one in enumerate(ids):
        yield one, TENANT, "team", random.choice(("vision", "speech", "text"))
        yield one, TENANT, "commit", f"c{index // 4}"


def size(random: Random) -> float:
    return random.lognormvariate(-5, 6)


def layers_of(random: Random) -> Iterator[LayerMeasurement]:
    names = ("7", "block.3", "head") if random.random() < 0.01 else ("0",)
    for depth in range(LAYERS_EACH):
        yield LayerMeasurement.model_construct(
            depth=depth, name=str(depth) if depth else random.choice(names), call=0, kind=random.choice(KINDS),
            parameters=(f"{depth}.weight",), output_shape=(128, 256), nonlinearity=random.choice(NONLINEARITIES),
            activation=amplitude(random), preactivation=amplitude(random) if depth % 2 else None,
            signal=SignalStatistics.model_construct(norm=size(random), rms=size(random)),
            forward_gain=size(random), backward_gain=size(random) if depth % 7 else None,
            activation_gain=random.random(), weight_gain=size(random), cumulative_backward_gain=size(random),
            dead_unit_fraction=max(random.uniform(-3, 1), 0.0), saturated_fraction=max(random.uniform(-3, 1), 0.0),
            mean_squared_slope=random.random(), sample_similarity=random.random(),
            nonfinite_count=int(random.random() < 1e-4), predicted_chi1=size(random) if depth % 3 else None,
            measured_chi1=size(random) if depth % 3 else None,
        )  # fmt: skip


def amplitude(random: Random) -> ActivationStatistics:
    return ActivationStatistics.model_construct(
        mean=random.gauss(0, 1), std=size(random), rms=size(random), abs_max=size(random)
    )


def parameters_of(random: Random) -> Iterator[ParameterMeasurement]:
    for index in range(PARAMETERS_EACH):
        numbers = {name: size(random) for name in NUMBERS_OF_PARAMETERS}
        shares = {name: max(random.uniform(-3, 1), 0.0) for name in SHARES_OF_PARAMETERS}
        yield ParameterMeasurement.model_construct(
            name=f"{index}.weight", aliases=(), layer=str(index), shape=(64, 64), numel=2 ** random.randrange(20),
            dtype="float32", status=random.choices(("trained", "frozen", "unused", "zero"), (96, 2, 1, 1))[0],
            grad_quantiles=Quantiles.model_construct(**{name: size(random) for name in Quantiles.model_fields}),
            log2_histogram=None, nan_count=int(random.random() < 1e-4), inf_count=0, weight_nonfinite_count=0,
            **numbers, **shares,
        )  # fmt: skip


def findings_of(random: Random) -> list[Finding]:
    return [finding(rule) for rule in random.sample(FREQUENT, 2)] + ([finding("non_finite")] * (random.random() < 1e-3))


TABLES = (
    ("layers", rows.LAYERS, layers_of),
    ("parameters", rows.PARAMETERS, parameters_of),
    ("findings", rows.FINDINGS, findings_of),
)
FREQUENT = [rule for rule in RULE_IDS if rule != "non_finite"]
SHARES_OF_PARAMETERS = ("zero_fraction", "fp16_flush_fraction", "bf16_flush_fraction")
NUMBERS_OF_PARAMETERS = tuple(
    name
    for name, field in ParameterMeasurement.model_fields.items()
    if field.annotation == Number and name not in SHARES_OF_PARAMETERS
)


if __name__ == "__main__":
    main()
