"""A history of inspections for benchmarks of lists: one per minute, with every field that lists filter by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session
from uuid_utils import uuid7

from gradinspect.contracts.report.report import Finding
from gradinspect.contracts.report.rows import (
    ActivationStatistics,
    LayerMeasurement,
    Number,
    ParameterMeasurement,
    Quantiles,
    SignalStatistics,
)
from gradinspect.rules import RULE_IDS
from service.db.engine import Database
from service.db.results import flattening as rows
from service.db.results import writing as results
from service.db.results.flattening import Value
from service.db.results.writing import RowOwner
from service.db.tables import InspectionRecord, ModelRecord
from tests.support.specimens import TENANT, finding, submit

LAYERS_EACH, PARAMETERS_EACH, MODELS, CHUNK = 50, 20, 200, 1000
KINDS = ("Linear", "Conv2d", "LayerNorm", "Embedding")
NONLINEARITIES = ("relu", "gelu", None)
START = datetime(2026, 1, 1, tzinfo=UTC)


def load(database: Database, count: int) -> list[str]:
    """Insert inspections, one per minute, with labels, findings, layers and parameters, by COPY."""
    random = Random(0)
    template = submit(database)
    ids = [f"insp_{uuid7()}" for _ in range(count)]
    drawn = [
        (one, model_id(random.randrange(MODELS)), *ended(random), START + timedelta(minutes=index))
        for index, one in enumerate(ids)
    ]
    places = [RowOwner(row[0], TENANT, row[1]) for row in drawn]
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
    """Add copies of a template row with some columns changed."""
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
        drawn: dict[str, Any] = {name: size(random) for name in NUMBERS_OF_PARAMETERS}  # Any: fields by name
        drawn |= {name: max(random.uniform(-3, 1), 0.0) for name in SHARES_OF_PARAMETERS}
        yield ParameterMeasurement.model_construct(
            name=f"{index}.weight", aliases=(), layer=str(index), shape=(64, 64), numel=2 ** random.randrange(20),
            dtype="float32", status=random.choices(("trained", "frozen", "unused", "zero"), (96, 2, 1, 1))[0],
            grad_quantiles=quantiles_of(random),
            log2_histogram=None, nan_count=int(random.random() < 1e-4), inf_count=0, weight_nonfinite_count=0,
            **drawn,
        )  # fmt: skip


def quantiles_of(random: Random) -> Quantiles:
    drawn: dict[str, Any] = {name: size(random) for name in Quantiles.model_fields}
    return Quantiles.model_construct(**drawn)


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
