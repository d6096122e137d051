"""Rows of a report: written in bulk when an inspection ends, read back as the report's own objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from psycopg import Connection as PsycopgConnection
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from gradinspect.contracts.report.report import Finding, Report
from service.db.results import flattening
from service.db.results.flattening import Shape, Value
from service.db.results.tables import FindingRecord, LayerRecord, ParameterRecord


class RowOwner(NamedTuple):
    """Foreign keys of the rows of one inspection."""

    inspection_id: str
    tenant_id: str
    model_id: str


def insert(session: Session, report: Report, owner: RowOwner) -> None:
    """Add the layers, parameters and findings of one report."""
    for table, shape, measurements in (
        (LayerRecord.__tablename__, flattening.LAYERS, report.layers),
        (ParameterRecord.__tablename__, flattening.PARAMETERS, report.parameters),
        (FindingRecord.__tablename__, flattening.FINDINGS, report.findings),
    ):
        if measurements:
            bulk_insert(session, table, columns_of(shape), rows_of(shape, measurements, owner))


def findings(session: Session, inspection_id: str, *, tenant: str) -> list[Finding]:
    """Read the findings of one inspection, in the report's order."""
    found = session.execute(
        select(FindingRecord.__table__)
        .where(FindingRecord.inspection_id == inspection_id, FindingRecord.tenant_id == tenant)
        .order_by(FindingRecord.position)
    )
    return [Finding.model_validate(flattening.FINDINGS.unflatten(dict(row)), strict=False) for row in found.mappings()]


def columns_of(shape: Shape) -> tuple[str, ...]:
    """Return the columns whose values `rows_of` yields."""
    return (*RowOwner._fields, "position", *shape.columns)


def rows_of(shape: Shape, measurements: Iterable[BaseModel], owner: RowOwner) -> Iterator[tuple[Value, ...]]:
    """Yield the values of a table's rows, one row per measurement."""
    flatten = shape.flatten
    for position, measurement in enumerate(measurements):
        yield (*owner, position, *flatten(measurement))


def bulk_insert(session: Session, table: str, columns: Sequence[str], values: Iterable[tuple[Value, ...]]) -> None:
    """Add many rows in the fastest way the database has."""
    names = ", ".join(f'"{column}"' for column in columns)
    driver = session.connection().connection.driver_connection
    if isinstance(driver, PsycopgConnection):
        with driver.cursor().copy(f"COPY {table} ({names}) FROM STDIN") as copy:
            for row in values:
                copy.write_row(row)
    else:
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608  # our own names
        session.connection().exec_driver_sql(statement, list(values))
