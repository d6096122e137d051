"""The backward signal by layer: how much of it arrives where, along the longest path to the loss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import NotJudged

FEWEST_LAYERS = 2  # one layer has nothing to compare its signal with


@dataclass(frozen=True)
class LayerSignal:
    """One layer with all its calls: `gain` is ‖δ‖ over its calls relative to the last layer's."""

    name: str
    gain: float
    calls: int


@dataclass(frozen=True)
class TimeGain:
    """By how much the signal changes over the calls of one layer that lie on one path: first over last."""

    name: str
    calls: int
    gain: float


def layer_signals(evidence: Evidence) -> tuple[LayerSignal, ...] | NotJudged:
    """Return the signal of each layer on the trunk in depth order, calls of one layer taken together.

    A recurrent layer's first time step may get no signal while its shared weights learn from the last ones: its calls
    count together here, and time is looked at by `time_gains`.
    """
    signals = _signals(evidence.trunk)
    if len(signals) < FEWEST_LAYERS:
        layers = "no layer carries" if not signals else "one layer alone carries"
        return NotJudged(f"{layers} a finite backward signal; at least {FEWEST_LAYERS} are needed")
    return signals


def branch_signals(evidence: Evidence) -> list[tuple[LayerSignal, ...]]:
    """Return the signals of each branch that joins the trunk, up to its last layer."""
    branches = map(_signals, evidence.branches)
    return [signals for signals in branches if len(signals) >= FEWEST_LAYERS]


def end_to_end(signals: tuple[LayerSignal, ...]) -> float:
    """Return ‖δ‖ of the first layer over that of the last."""
    last = signals[-1].gain
    return signals[0].gain / last if last > 0 else 0.0


def judged_gain(row: LayerMeasurement) -> float | None:
    """Return ‖δ‖ over the last call's, as it counts for the layer.

    Where a normalisation divides the output's size out, that behind the normalisation: multiplying the output by c
    divides δ by c and changes nothing else. Behind gates that start at zero or very small, that with the gates opened.
    """
    if row.opened is not None:
        gain, gates = row.opened.cumulative_backward_gain, 1.0
    else:
        gain, gates = row.cumulative_backward_gain, row.gate_factor or 1.0
    return None if gain is None else gain * (row.normalised_scale or 1.0) / gates


def time_gains(evidence: Evidence) -> list[TimeGain]:
    """Return what happens over the repeated calls of each layer.

    With a graph: of the calls on one path, the change that both the measured norms and the product of the path's
    Jacobians show. The product does not depend on where the loss enters, and the norms say whether the loss shows it.
    Without a graph: the measured norms of all calls of a layer.
    """
    calls: dict[str, list[LayerMeasurement]] = {}
    for row in evidence.layers:
        if row.signal is not None and row.signal.norm is not None:
            calls.setdefault(row.name, []).append(row)
    if not evidence.has_graph:
        return [TimeGain(name, len(rows), _first_over_last(rows)) for name, rows in calls.items() if _is_repeated(rows)]
    gains = []
    for row in evidence.recurrences:
        rows = [other for other in calls.get(row.name, []) if other.depth >= row.depth][: row.recurrence_calls]
        if row.recurrence_gain is not None and _is_repeated(rows):
            gains.append(TimeGain(row.name, row.recurrence_calls, _milder(row.recurrence_gain, _first_over_last(rows))))
    return gains


def _signals(rows: Iterable[LayerMeasurement]) -> tuple[LayerSignal, ...]:
    gains: dict[str, float] = {}
    calls: Counter[str] = Counter()
    for row in rows:
        gain = judged_gain(row)
        if gain is not None:
            gains[row.name] = math.hypot(gains.get(row.name, 0.0), gain)
            calls[row.name] += 1
    return tuple(LayerSignal(name, gain, calls[name]) for name, gain in gains.items())


def _is_repeated(rows: list[LayerMeasurement]) -> bool:
    return len(rows) > 1 and _norm(rows[-1]) > 0


def _first_over_last(rows: list[LayerMeasurement]) -> float:
    return _norm(rows[0]) / _norm(rows[-1])


def _norm(row: LayerMeasurement) -> float:
    return (row.signal.norm or 0.0) if row.signal is not None else 0.0


def _milder(one: float, other: float) -> float:
    """Return the gain nearer 1 of two in the same direction; 1 where they disagree about the direction."""
    if (one < 1) != (other < 1):
        return 1.0
    return max(one, other) if one < 1 else min(one, other)
