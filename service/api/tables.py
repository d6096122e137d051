"""Rows as CSV: nested fields joined by an underscore, as filters name them; lists and shapes as JSON."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO

from pydantic import BaseModel

from gradinspect.contracts.report.report import MeasuredBy
from service.db.results import flattening as rows
from service.db.results.flattening import Shape, Value

# Spreadsheets run a name with such a start as a formula, and a model can choose any name for a layer.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def layers(measurements: Iterable[BaseModel], *, measured_by: MeasuredBy | None = None) -> str:
    """Write layer calls, one per line; rows of several inspections begin with the inspection and the model.

    Args:
        measurements: the rows.
        measured_by: who measured the one inspection that they are of; else each row says it.
    """
    return _table(rows.LAYERS, measurements, measured_by)


def parameters(measurements: Iterable[BaseModel], *, measured_by: MeasuredBy | None = None) -> str:
    """Write parameters, in the form of `layers`."""
    return _table(rows.PARAMETERS, measurements, measured_by)


def _table(shape: Shape, measurements: Iterable[BaseModel], measured_by: MeasuredBy | None) -> str:
    found = list(measurements)
    owners = [name for name in ("inspection", "model") if found and hasattr(found[0], name)]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180
    writer.writerow([*owners, *(field.column for field in shape.fields), "measured_by"])
    first = len(shape.columns) - len(shape.fields)  # a table does not need the list of nested objects
    for row in found:
        values = shape.flatten(row)[first:]
        measurer = measured_by or getattr(row, "measured_by", None)
        writer.writerow([*(getattr(row, name) for name in owners), *map(_cell, values), measurer])
    return text.getvalue()


def _cell(value: Value) -> Value:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
