"""The backward signal that reaches each layer."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import NotJudged

FEWEST_LAYERS = 2  # a single layer has no other to be compared with


@dataclass(frozen=True)
class LayerSignal:
    """One layer with all its calls: `gain` is ‖δ‖ over its calls relative to the last layer's."""

    name: str
    gain: float
    calls: int


def layer_signals(evidence: Evidence) -> tuple[LayerSignal, ...] | NotJudged:
    """Return the signal of each layer in depth order, with the calls of one layer combined.

    The first time step of a recurrent layer may get no signal while the shared weights learn from the last ones, so
    calls are combined here; `time_gain` compares them.
    """
    gains: dict[str, float] = {}
    calls: Counter[str] = Counter()
    for row in evidence.layers:
        if row.cumulative_backward_gain is not None:
            gains[row.name] = math.hypot(gains.get(row.name, 0.0), row.cumulative_backward_gain)
            calls[row.name] += 1
    if len(gains) < FEWEST_LAYERS:
        layers = "no layer carries" if not gains else "one layer alone carries"
        return NotJudged(f"{layers} a finite backward signal; at least {FEWEST_LAYERS} are needed")
    return tuple(LayerSignal(name, gain, calls[name]) for name, gain in gains.items())


def end_to_end(signals: tuple[LayerSignal, ...]) -> float:
    """Return ‖δ‖ of the first layer over that of the last."""
    last = signals[-1].gain
    return signals[0].gain / last if last > 0 else 0.0


def time_gain(evidence: Evidence) -> tuple[str, int, float] | None:
    """Return the repeated layer whose first and last calls differ most: name, calls, first over last signal."""
    calls: dict[str, list[float]] = {}
    for row in evidence.layers:
        if row.signal is not None and row.signal.norm is not None:
            calls.setdefault(row.name, []).append(row.signal.norm)
    repeated = [
        (name, len(norms), norms[0] / norms[-1]) for name, norms in calls.items() if len(norms) > 1 and norms[-1] > 0
    ]
    return max(repeated, key=lambda entry: abs(_decades(entry[2])), default=None)


def _decades(ratio: float) -> float:
    return math.log10(ratio) if ratio > 0 else -math.inf
