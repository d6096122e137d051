"""The layer calls that a report lists: all of a short network, the ends of a long one and what stands out in it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.report.rows import LayerMeasurement, joint_gradient_norm
from gradinspect.contracts.request.policy import Severity

STRANGE_DECADES = 0.15  # chosen: a factor of 1.4 between a layer's gain and the usual one shows in a table


@dataclass(frozen=True)
class LayerLine:
    """One layer call with what the report says about it elsewhere.

    Attributes:
        layer: the measurement.
        grad_norm: l2 norm of the gradients of its parameters together; None without any, or where one is not finite.
        flag: the severest finding that counts and names it.
        notes: what its numbers alone do not show.
    """

    layer: LayerMeasurement
    grad_norm: float | None
    flag: Severity | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Gap:
    """Layer calls that are not listed, between two that are."""

    count: int


def layer_lines(report: Report, *, most: int | None = None) -> list[LayerLine | Gap]:
    """List the layer calls from input to output.

    Args:
        report: the report.
        most: list no more than so many: a fifth from each end, then what stands out, then one in so many. None lists
            all.
    """
    layers = sorted(report.layers, key=lambda row: row.depth)
    flags = _flags(report.findings)
    gradients = {row.name: row for row in report.parameters}
    chosen = set(range(len(layers))) if most is None or len(layers) <= most else _chosen(layers, most)
    lines: list[LayerLine | Gap] = []
    skipped = 0
    for index, layer in enumerate(layers):
        if index not in chosen:
            skipped += 1
            continue
        if skipped:
            lines.append(Gap(skipped))
            skipped = 0
        lines.append(
            LayerLine(layer, joint_gradient_norm(layer.parameters, gradients), flags.get(layer.name), notes_of(layer))
        )
    return lines


def _chosen(layers: list[LayerMeasurement], most: int) -> set[int]:
    """Both ends, what stands out between them, and one in so many of the rest."""
    ends = max(most // 5, 1)
    chosen = {*range(ends), *range(len(layers) - ends, len(layers))}
    inner = range(ends, len(layers) - ends)
    usual = _usual_gain(layers)
    strange = sorted((-strangeness, index) for index in inner if (strangeness := _strangeness(layers[index], usual)))
    chosen |= {index for _, index in strange[: most - len(chosen)]}
    room = min(most - len(chosen), most // 5)
    return chosen | {inner[len(inner) * (2 * step + 1) // (2 * room)] for step in range(room)}


def _usual_gain(layers: list[LayerMeasurement]) -> float:
    """The median of log10(backward gain)."""
    known = [math.log10(row.backward_gain) for row in layers if row.backward_gain is not None and row.backward_gain > 0]
    return median(known) if known else 0.0


def _strangeness(row: LayerMeasurement, usual: float) -> float:
    """How much a layer call stands out: infinitely when broken, by its own gain's distance from the usual one, or 0."""
    gain = row.backward_gain
    reached = row.cumulative_backward_gain
    if row.nonfinite_count or reached is None or reached <= 0 or (gain is not None and gain <= 0):
        return math.inf
    away = abs(math.log10(gain) - usual) if gain is not None else 0.0
    return away if away > STRANGE_DECADES else 0.0


def _flags(findings: Iterable[Finding]) -> dict[str, Severity]:
    flags: dict[str, Severity] = {}
    for severity in ("fail", "warn"):
        for finding in findings:
            if finding.severity == severity:
                for name in finding.layers:
                    flags.setdefault(name, finding.severity)
    return flags


def notes_of(layer: LayerMeasurement) -> tuple[str, ...]:
    """Name what stands out of a layer call besides its gains."""
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
