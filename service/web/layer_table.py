"""The table of layer calls on a report page: which rows, in which order, and what is marked in them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.report.words.layer_lines import notes_of

WORST = 25  # rows shown at first
MOST_ROWS = 2_000  # beyond it a browser is slow; the CSV has all


@dataclass(frozen=True)
class Column:
    """One numeric column: its field as the API filters by it, and its words."""

    field: str
    title: str
    hint: str


COLUMNS = (
    Column("forward_gain", "Forward gain", "rms of the output over rms of the input"),
    Column("backward_gain", "Backward gain", "signal here over signal at the next call towards the loss"),
    Column("activation_gain", "of activation", "the activation's part of the backward gain"),
    Column("weight_gain", "of weights", "the weights' part of the backward gain"),
    Column("cumulative_backward_gain", "Cumulative", "signal here over signal at the last layer call"),
    Column("signal_rms", "Signal rms", "gradient of the loss by the output, rms over its elements"),
    Column("sample_similarity", "Similarity", "mean cosine between the samples' outputs"),
)


@dataclass(frozen=True)
class Row:
    """One layer call as the table shows it."""

    layer: LayerMeasurement
    cells: tuple[float | None, ...]
    flag: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LayerTable:
    """The rows to show, and how many there are."""

    rows: tuple[Row, ...]
    total: int
    shows_all: bool
    sort: str
    cut: bool


def layer_table(report: Report, *, shows_all: bool, sort: str) -> LayerTable:
    """Choose and order the rows.

    Args:
        report: the report.
        shows_all: every row (up to a bound) instead of the worst.
        sort: a column's field, with a minus for largest first; `depth`, or anything unknown, keeps the network's order.
    """
    flags = _flags(report.findings)
    rows = list(report.layers)
    if not shows_all:
        chosen = sorted(rows, key=lambda row: _badness(row, flags))[:WORST]
        rows = sorted(chosen, key=lambda row: row.depth)
    field = sort.removeprefix("-")
    is_known = any(column.field == field for column in COLUMNS)
    if is_known:
        rows = _sorted(rows, field, descending=sort.startswith("-"))
    shown = rows[:MOST_ROWS]
    return LayerTable(
        rows=tuple(_row(row, flags) for row in shown),
        total=len(report.layers),
        shows_all=shows_all or len(report.layers) <= WORST,
        sort=sort if is_known else "depth",
        cut=len(rows) > len(shown),
    )


def _flags(findings: Iterable[Finding]) -> dict[str, str]:
    """Layer → the severest finding that names it."""
    flags: dict[str, str] = {}
    for finding in findings:  # severest first
        if finding.severity != "info":
            for name in finding.layers:
                flags.setdefault(name, finding.severity)
    return flags


def _badness(row: LayerMeasurement, flags: dict[str, str]) -> tuple[int, int, float]:
    """Sort key, worst first: values that are not finite or zero, then what findings name, then far from balance."""
    gain = row.cumulative_backward_gain
    broken = 0 if row.nonfinite_count or gain is None or gain <= 0 else 1
    named = {"fail": 0, "warn": 1}.get(flags.get(row.name, ""), 2)
    away = abs(math.log10(gain)) if gain is not None and gain > 0 else math.inf
    return broken, named, -away


def _number(row: LayerMeasurement, field: str) -> float | None:
    if field == "signal_rms":
        return row.signal.rms if row.signal is not None else None
    value: float | None = getattr(row, field)
    return value


def _sorted(rows: list[LayerMeasurement], field: str, *, descending: bool) -> list[LayerMeasurement]:
    """By a column; rows without a value come last either way."""

    def order(row: LayerMeasurement) -> tuple[bool, float]:
        value = _number(row, field)
        return value is None, 0.0 if value is None else -value if descending else value

    return sorted(rows, key=order)


def _row(layer: LayerMeasurement, flags: dict[str, str]) -> Row:
    return Row(
        layer, tuple(_number(layer, column.field) for column in COLUMNS), flags.get(layer.name, ""), notes_of(layer)
    )
