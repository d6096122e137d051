"""The factor of the network that makes the backward signal shrink or grow.

Along a chain, log10 of the total gain is the sum over the layers' slopes and weights. Each part is compared with the
best that the layer's nonlinearity allows: a ReLU halves the squared signal in any network and weights of gain √2
compensate, so with Xavier weights the weights are too small; no weights compensate for a sigmoid.
Source: He et al. 2015, eq. 14, for the balance of slope and weights; Schoenholz et al. 2017, eq. 10, for χ1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from gradinspect.contracts.nonlinearities import balanced_slope
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.rules.evidence import Evidence, is_norm_kind
from gradinspect.rules.gates import signal_edge
from gradinspect.rules.signal import TimeGain, time_gains

Cause = Literal[
    "activation_slope", "weight_scale", "normalisation", "residual_scale", "recurrence", "depth", "cut_signal"
]  # fmt: skip

MILD_DECADES = math.log10(1.25)  # a layer within 0.8 … 1.25 is mild: the band of initialization_mismatch
SHARE_OF_TIME = 0.5  # chosen: more than all other layers together
FEWEST_JOINS = 2  # a single join proves nothing; a residual network has one in each block


@dataclass(frozen=True)
class Blame:
    """The factor responsible, in words and as a machine-readable cause."""

    cause: Cause
    sentence: str
    layers: tuple[LayerMeasurement, ...]
    per_layer: float


def blame(evidence: Evidence, gain: float) -> Blame:
    """Find the factor that makes the signal shrink (gain < 1) or grow.

    Args:
        evidence: the measurements.
        gain: the total gain from the last layer to the first.
    """
    rows = [row for row in map(_opened, evidence.trunk) if row.backward_gain and row.backward_gain > 0]
    if gain == 0 or not rows:
        return _cut(evidence)
    accounts = _Accounts(evidence, rows, gain)
    return next(hypothesis for hypothesis in _HYPOTHESES if hypothesis.is_supported(accounts)).blame(accounts)


def _opened(row: LayerMeasurement) -> LayerMeasurement:
    """Return the row with the gains that it has once the zero weights are opened."""
    if row.opened is None:
        return row
    gains = ("backward_gain", "activation_gain", "weight_gain", "cumulative_backward_gain")
    return row.model_copy(update={name: getattr(row.opened, name) for name in gains})


@dataclass(frozen=True)
class _Accounts:
    """The gain of a chain, by layer call and factor.

    Attributes:
        rows: the layer calls with a gain above 0, in depth order.
        gain: from the last layer to the first, above 0.
    """

    evidence: Evidence
    rows: list[LayerMeasurement]
    gain: float

    @property
    def is_shrinking(self) -> bool:
        """Whether the signal shrinks from the last layer to the first."""
        return self.gain < 1

    @property
    def direction(self) -> float:
        """-1 for a signal that shrinks, 1 for one that grows."""
        return -1.0 if self.is_shrinking else 1.0

    @cached_property
    def slopes(self) -> dict[int, float]:
        """Decades that each nonlinearity's slope contributes to the change, by depth."""
        return {row.depth: self.direction * _slope_decades(row) for row in self.rows}

    @cached_property
    def scales(self) -> dict[int, float]:
        """Decades that each layer's weights contribute to the change, by depth."""
        return {row.depth: self.direction * _weight_decades(row) for row in self.rows}

    @cached_property
    def norms(self) -> frozenset[int]:
        """Depths of the calls followed by a normalisation."""
        if self.evidence.has_graph:
            return frozenset(row.depth for row in self.rows if row.normalised_scale is not None)
        following = pairwise(self.evidence.layers)
        normalised = {row.depth for row, after in following if is_norm_kind(after.kind)}
        return frozenset(row.depth for row in self.rows if row.depth in normalised)

    @cached_property
    def joins(self) -> list[LayerMeasurement]:
        """Calls whose output is added to a skip connection."""
        return [
            row
            for row in self.rows
            if row.depth not in self.norms and _is_join(row) and self.evidence.has_way_around(row)
        ]

    @cached_property
    def recurrence(self) -> TimeGain | None:
        """The repeated layer that contributes most, where it contributes at least `SHARE_OF_TIME` of the decades."""
        gains = [time for time in time_gains(self.evidence) if time.gain > 0]
        largest = max(gains, key=lambda time: self.direction * math.log10(time.gain), default=None)
        if largest is None or self.direction * math.log10(largest.gain) < SHARE_OF_TIME * abs(math.log10(self.gain)):
            return None
        return largest

    @cached_property
    def by_slope(self) -> float:
        """Decades of all slopes together."""
        return math.fsum(self.slopes.values())

    @cached_property
    def by_weight(self) -> float:
        """Decades of the weights not followed by a normalisation."""
        return math.fsum(value for depth, value in self.scales.items() if depth not in self.norms)

    @cached_property
    def by_norm(self) -> float:
        """Decades of the weights followed by a normalisation."""
        return math.fsum(value for depth, value in self.scales.items() if depth in self.norms)


def _is_recurrent(accounts: _Accounts) -> bool:
    """Check whether the repeated calls of one layer explain most of the gain."""
    if not accounts.evidence.has_graph:
        return any(row.call > 0 for row in accounts.rows)
    return accounts.recurrence is not None


def _has_branches(accounts: _Accounts) -> bool:
    # Normalised branches cannot shrink the signal of their skip connection, but many of them make it grow.
    return len(accounts.joins) >= FEWEST_JOINS and (not accounts.is_shrinking or not accounts.norms)


def _is_mostly_slope(accounts: _Accounts) -> bool:
    return accounts.by_slope > 0 and accounts.by_slope >= accounts.by_weight + accounts.by_norm


def _is_mild_everywhere(accounts: _Accounts) -> bool:
    gains = (row.backward_gain for row in accounts.rows if row.backward_gain)
    return max(accounts.direction * math.log10(gain) for gain in gains) <= MILD_DECADES


def _slope_decades(row: LayerMeasurement) -> float:
    if not row.activation_gain or row.nonlinearity is None:
        return 0.0
    return math.log10(row.activation_gain / balanced_slope(row.nonlinearity))


def _weight_decades(row: LayerMeasurement) -> float:
    weight = row.weight_gain if row.weight_gain else row.backward_gain
    if not weight:
        return 0.0
    return math.log10(weight * balanced_slope(row.nonlinearity))


def _activation(accounts: _Accounts) -> Blame:
    worst = max(accounts.rows, key=lambda row: accounts.slopes[row.depth])
    same = [row for row in accounts.rows if row.nonlinearity == worst.nonlinearity]
    slope = geometric_mean([row.activation_gain for row in same])
    weight = geometric_mean([row.weight_gain for row in same])
    sentence = f"Each {worst.nonlinearity} multiplies the signal by {slope:.2g}, the weights by {weight:.2g}"
    sentence += f" (geometric means over {len(same)} layer calls): the activation's slope is responsible."
    saturated = [row.saturated_fraction for row in same if row.saturated_fraction is not None]
    if saturated and sum(saturated) / len(saturated) > 0.2:
        sentence += f" {100 * sum(saturated) / len(saturated):.0f} % of its inputs lie where it is flat."
    return Blame("activation_slope", sentence, tuple(same), slope)


def _weights(accounts: _Accounts) -> Blame:
    share = 0.1 * accounts.by_weight / len(accounts.rows)  # chosen: a tenth of the average layer's part
    rows = [row for row in accounts.rows if accounts.scales[row.depth] > share] or accounts.rows
    weight = geometric_mean([row.weight_gain or row.backward_gain for row in rows])
    ideal = geometric_mean([1 / balanced_slope(row.nonlinearity) for row in rows])
    size = "small" if accounts.is_shrinking else "large"
    sentence = (
        f"The weights multiply the signal by {weight:.2g} a layer where {ideal:.2g} would balance the activation: "
        f"the scale of the weights is responsible, it is too {size}."
    )
    return Blame("weight_scale", sentence + _theory(rows), tuple(rows), weight / ideal)


def _theory(rows: list[LayerMeasurement]) -> str:
    """Return the prediction of mean-field theory for the same layers as a sentence, or nothing without one."""
    pairs = [(row.predicted_chi1, row.measured_chi1) for row in rows if row.predicted_chi1 and row.measured_chi1]
    if not pairs:
        return ""
    predicted = math.sqrt(geometric_mean([pair[0] for pair in pairs]))
    measured = math.sqrt(geometric_mean([pair[1] for pair in pairs]))
    return f" Mean-field theory predicts a gain of {predicted:.2g} a layer for these weights; measured: {measured:.2g}."


def _normalisation(accounts: _Accounts) -> Blame:
    before = [row for row in accounts.rows if row.depth in accounts.norms]
    blocks = len(before)
    growth = 10 ** (math.fsum(math.log10(row.backward_gain) for row in accounts.rows if row.backward_gain) / blocks)
    where = "normalisation on the main path" if accounts.is_shrinking else "normalisation without skip connections"
    sentence = (
        f"Each of {blocks} normalised layers multiplies the signal by {growth:.2g}: {where} is responsible, "
        "whatever the scale of the weights."
    )
    return Blame("normalisation", sentence, tuple(before), growth)


def _is_join(row: LayerMeasurement) -> bool:
    """Check whether a call's output is added to another: no nonlinearity follows and theory predicts nothing."""
    return row.nonlinearity is None and row.predicted_chi1 is None and "embedding" not in row.kind.lower()


def _branches(accounts: _Accounts) -> Blame:
    joins = accounts.joins
    word = "takes from" if accounts.is_shrinking else "adds to"
    sentence = (
        f"Each of {len(joins)} residual branches {word} the signal of its skip connection: the residual scale is "
        "responsible."
    )
    return Blame("residual_scale", sentence, tuple(joins), geometric_mean([row.backward_gain for row in joins]))


def _cut(evidence: Evidence) -> Blame:
    """Blame the call that stops the signal: the one before the first call that gets a signal."""
    reached = signal_edge(evidence, 0)
    below = [row for row in evidence.layers if reached is not None and row.depth < reached.depth]
    if reached is None or not below:
        return Blame("cut_signal", "No layer call gets a signal: the way to the loss is cut.", (), 0.0)
    end = below[-1]
    if end.dead_unit_fraction == 1.0 and end.nonlinearity is not None:
        sentence = (
            f"All units of `{end.name}` are zero for every sample, and where {end.nonlinearity} is zero it has no slope"
        )
        return Blame("activation_slope", f"{sentence}: the activation's slope is responsible.", (end,), 0.0)
    owned = [evidence.by_name[name] for name in reached.parameters if name in evidence.by_name]
    weights = [row for row in owned if len(row.shape) >= 2]
    if weights and all(row.weight_norm == 0 for row in weights):
        sentence = (
            f"The weight of `{reached.name}` is zero and passes nothing back: the scale of the weights is responsible."
        )
        return Blame("weight_scale", sentence, (reached,), 0.0)
    return Blame("cut_signal", f"The signal ends between `{reached.name}` and `{end.name}`.", (end,), 0.0)


def _recurrence(accounts: _Accounts) -> Blame:
    if accounts.recurrence is not None:
        name, count = accounts.recurrence.name, accounts.recurrence.calls
        step = accounts.recurrence.gain ** (1 / max(count - 1, 1))
    else:
        name, count = Counter(row.name for row in accounts.rows).most_common(1)[0]
        calls = [row.cumulative_backward_gain for row in accounts.rows if row.name == name]
        first, last = calls[0], calls[-1]
        step = (first / last) ** (1 / max(count - 1, 1)) if first and last else 0.0
    same = [row for row in accounts.rows if row.name == name]
    sentence = (
        f"The same weights of `{name}` are applied {count} times and multiply the signal by {step:.2g} each time: "
        "the recurrence is responsible."
    )
    return Blame("recurrence", sentence, tuple(same), step)


def _depth(accounts: _Accounts) -> Blame:
    per_layer = accounts.gain ** (1 / len(accounts.rows))
    sentence = (
        f"No layer is far off: each multiplies the signal by about {per_layer:.2g}, and there are {len(accounts.rows)} "
        "of them. Depth alone is responsible."
    )
    return Blame("depth", sentence, tuple(accounts.rows), per_layer)


def geometric_mean(values: list[float | None]) -> float:
    """Return exp(mean(log)) of the values that are neither None nor 0; 1 without any."""
    known = [math.log(value) for value in values if value]
    return math.exp(math.fsum(known) / len(known)) if known else 1.0


@dataclass(frozen=True)
class _Hypothesis:
    """A factor that may be responsible; the first supported one is blamed."""

    is_supported: Callable[[_Accounts], bool]
    blame: Callable[[_Accounts], Blame]


# Structural evidence outranks the sums of decades; the weights are the fallback.
_HYPOTHESES = (
    _Hypothesis(_is_recurrent, _recurrence),
    _Hypothesis(_has_branches, _branches),
    _Hypothesis(_is_mostly_slope, _activation),
    _Hypothesis(lambda accounts: bool(accounts.norms), _normalisation),
    _Hypothesis(_is_mild_everywhere, _depth),
    _Hypothesis(lambda _: True, _weights),
)
