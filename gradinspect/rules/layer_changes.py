"""Each layer's numbers on both sides of a comparison, as ratios with the band that seeds alone explain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from gradinspect.contracts.report.comparison import Difference, LayerComparison, Ratio
from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement, joint_gradient_norm
from gradinspect.contracts.report.sections import LayerSpread
from gradinspect.rules.chance import half_width
from gradinspect.rules.matching import LayerMatch

NO_SPREAD = LayerSpread()
SAME = 1e-9  # relative: repeated runs agree bit by bit on one machine, up to rounding of sums on two machines


@dataclass(frozen=True)
class Side:
    """One report with the lookups that a comparison needs."""

    report: Report

    @cached_property
    def seeds(self) -> int:
        """Number of initialisations or batches that the rows are averages over."""
        spread = self.report.spread
        return spread.seeds if spread is not None and spread.seeds > 1 else 1

    @property
    def knows_chance(self) -> bool:
        """Whether the report records how its seeds vary."""
        return self.seeds > 1

    def spread(self, index: int) -> LayerSpread:
        """Return the variation of one layer call over the seeds."""
        spread = self.report.spread
        return spread.layers[index] if spread is not None and index < len(spread.layers) else NO_SPREAD

    @cached_property
    def gradient_norms(self) -> Mapping[str, ParameterMeasurement]:
        """Parameter name → its row."""
        return {row.name: row for row in self.report.parameters}

    def gradient_norm(self, row: LayerMeasurement) -> float | None:
        """‖g‖ over the parameters of a layer call."""
        return joint_gradient_norm(row.parameters, self.gradient_norms)


def compare_layer(match: LayerMatch, base: Side, head: Side) -> LayerComparison:
    """Compare the numbers of one matched layer call."""
    ours, theirs = base.report.layers[match.base], head.report.layers[match.head]
    spreads = base.spread(match.base), head.spread(match.head)

    def ratio(field: str, before: float | None, after: float | None) -> Ratio:
        noise = half_width(getattr(spreads[0], field), base.seeds, getattr(spreads[1], field), head.seeds)
        return compare_numbers(before, after, noise)

    return LayerComparison(
        base=ours.name,
        head=theirs.name,
        call=theirs.call,
        kind=ours.kind,
        head_kind=theirs.kind,
        matched_by=match.by,
        signal_rms=ratio("signal_rms", _rms(ours), _rms(theirs)),
        cumulative_backward_gain=ratio(
            "cumulative_backward_gain", ours.cumulative_backward_gain, theirs.cumulative_backward_gain
        ),
        backward_gain=ratio("backward_gain", ours.backward_gain, theirs.backward_gain),
        forward_gain=ratio("forward_gain", ours.forward_gain, theirs.forward_gain),
        grad_norm=ratio("grad_norm", base.gradient_norm(ours), head.gradient_norm(theirs)),
    )


def compare_numbers(base: float | None, head: float | None, noise: float | None) -> Ratio:
    """Return the ratio of two positive numbers in log2.

    Args:
        base: before.
        head: after.
        noise: half width of the band of chance in log2, None where it is unknown.
    """
    if base is None or head is None:
        return Ratio(base=base, head=head)
    if base <= 0 or head <= 0:
        word: Difference = "same" if base == head else "larger" if head > base else "smaller"
        return Ratio(base=base, head=head, difference=word)
    change = math.log2(head) - math.log2(base)
    return Ratio(base=base, head=head, log2_ratio=change, noise=noise, difference=_difference(change, noise))


def _difference(change: float, noise: float | None) -> Difference:
    if abs(change) <= SAME:
        return "same"
    if noise is not None and abs(change) <= noise:
        return "within_noise"
    return "larger" if change > 0 else "smaller"


def _rms(row: LayerMeasurement) -> float | None:
    return row.signal.rms if row.signal is not None else None
