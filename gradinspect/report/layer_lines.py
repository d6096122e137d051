"""The layer calls that a report lists: the ends and the unusual ones of a long network, or the worst ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.contracts.request.policy import Severity
from gradinspect.report.columns import COLUMNS, Column

UNUSUAL_DECADES = 0.15  # chosen: a factor of 1.4 between a layer's gain and the median shows in a table


@dataclass(frozen=True)
class LayerLine:
    """One layer call, with what the rest of the report says about it.

    Attributes:
        layer: the measurement.
        flag: the most severe finding that names the layer; info findings do not count.
        notes: remarks that its numbers do not show, such as the share of dead units.
    """

    layer: LayerMeasurement
    flag: Severity | None
    notes: tuple[str, ...]

    @property
    def is_branch(self) -> bool:
        """Whether the call is off the longest path to the loss."""
        return self.layer.on_trunk is False


@dataclass(frozen=True)
class Gap:
    """Layer calls that are left out between two that are listed."""

    count: int


def layer_lines(report: Report, *, most: int) -> list[LayerLine | Gap]:
    """List layer calls from input to output.

    Args:
        report: the report.
        most: number of layer calls to list. Of a longer network: a fifth from each end, then unusual ones, then an
            even selection.
    """
    layers = sorted(report.layers, key=lambda row: row.depth)
    flags = _flags(report.findings)
    chosen = set(range(len(layers))) if len(layers) <= most else _chosen(layers, most)
    lines: list[LayerLine | Gap] = []
    skipped = 0
    for index, layer in enumerate(layers):
        if index not in chosen:
            skipped += 1
            continue
        if skipped:
            lines.append(Gap(skipped))
            skipped = 0
        lines.append(_line(layer, flags))
    return lines


def worst_lines(report: Report, *, most: int) -> list[LayerLine]:
    """List the worst layer calls from input to output: broken ones, then those in findings, then far from balance."""
    flags = _flags(report.findings)
    chosen = sorted(report.layers, key=lambda layer: _badness(layer, flags))[:most]
    return [_line(layer, flags) for layer in sorted(chosen, key=lambda layer: layer.depth)]


def sorted_lines(lines: Sequence[LayerLine], name: str) -> list[LayerLine] | None:
    """Sort by a column, missing numbers last; None when there is no such column.

    Args:
        lines: rows in any order.
        name: `Column.name`, with a leading minus for the largest first.
    """
    column = next((column for column in COLUMNS if column.name == name.removeprefix("-")), None)
    if column is None:
        return None
    sign = -1 if name.startswith("-") else 1
    return sorted(lines, key=lambda line: _order(line, column, sign))


def _order(line: LayerLine, column: Column, sign: int) -> tuple[bool, float]:
    value = column.value(line.layer)
    return value is None, 0.0 if value is None else sign * value


def _line(layer: LayerMeasurement, flags: dict[str, Severity]) -> LayerLine:
    return LayerLine(layer, flags.get(layer.name), _notes(layer))


def _chosen(layers: Sequence[LayerMeasurement], most: int) -> set[int]:
    """Choose both ends, then what is unusual between them, then an even selection of the rest."""
    ends = max(most // 5, 1)
    chosen = {*range(ends), *range(len(layers) - ends, len(layers))}
    inner = range(ends, len(layers) - ends)
    usual = _median_gain(layers)
    unusual = sorted((-distance, index) for index in inner if (distance := _distance(layers[index], usual)))
    chosen |= {index for _, index in unusual[: most - len(chosen)]}
    room = min(most - len(chosen), most // 5)
    return chosen | {inner[len(inner) * (2 * step + 1) // (2 * room)] for step in range(room)}


def _median_gain(layers: Sequence[LayerMeasurement]) -> float:
    """Return the median of log10(backward gain)."""
    known = [math.log10(row.backward_gain) for row in layers if row.backward_gain is not None and row.backward_gain > 0]
    return median(known) if known else 0.0


def _distance(row: LayerMeasurement, usual: float) -> float:
    """Measure how unusual a layer call is: decades from the median gain, 0 when near it, infinite when broken."""
    gain = row.backward_gain
    if _is_broken(row) or (gain is not None and gain <= 0):
        return math.inf
    decades = abs(math.log10(gain) - usual) if gain is not None else 0.0
    return decades if decades > UNUSUAL_DECADES else 0.0


def _badness(row: LayerMeasurement, flags: dict[str, Severity]) -> tuple[bool, int, float]:
    gain = row.cumulative_backward_gain
    severity = {"fail": 0, "warn": 1}.get(flags.get(row.name, ""), 2)
    decades = abs(math.log10(gain)) if gain is not None and gain > 0 else math.inf
    return not _is_broken(row), severity, -decades


def _is_broken(row: LayerMeasurement) -> bool:
    """Check for values that are not finite, and for a signal that is missing or zero."""
    return bool(row.nonfinite_count) or row.cumulative_backward_gain is None or row.cumulative_backward_gain <= 0


def _flags(findings: Iterable[Finding]) -> dict[str, Severity]:
    """Map each layer to the most severe finding that names it."""
    flags: dict[str, Severity] = {}
    for finding in findings:  # most severe first
        if finding.severity != "info":
            for name in finding.layers:
                flags.setdefault(name, finding.severity)
    return flags


def _notes(layer: LayerMeasurement) -> tuple[str, ...]:
    notes = []
    if layer.nonfinite_count:
        notes.append(f"{layer.nonfinite_count:,} not finite")
    if layer.signal is not None and layer.signal.norm == 0:
        notes.append("no signal")
    if layer.dead_unit_fraction:
        notes.append(f"{_rounded(layer.dead_unit_fraction)} dead")
    if layer.saturated_fraction and layer.saturated_fraction >= 0.005:
        notes.append(f"{_rounded(layer.saturated_fraction)} saturated")
    return tuple(notes)


def _rounded(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 else "under 1 %"
