"""Charts of learning-rate scales: the scales with their variation, and the losses of the probe."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradinspect.contracts.report.sections import LrScales, ProbeCurve, ScaleGroup
from gradinspect.report.charts.plotting import (
    BACKWARD,
    FONT,
    FORWARD,
    INK,
    Frame,
    Series,
    escaped,
    height,
    line,
    names_at_ends,
    octave,
    positions,
    svg,
)
from gradinspect.report.words.figures import shortened
from gradinspect.wording import counted, number

ROW, LEAST_ROW, MOST_HEIGHT = 20.0, 2.0, 1_200.0
NAMED_ROW = 11.0  # height that a name needs
SMOOTHED = 10  # steps, as in the comparison of the probe
NARROW, EXTREME = 0.7, 290.0  # decades: linear ticks up to NARROW; EXTREME is near the end of float64
UNIFORM = "uniform"
LEARNED = "#2f8f4e"  # 3:1 or better on white and on near-black


def scale_bars(groups: Sequence[ScaleGroup], *, described_by: str | None = None, width: int = 760) -> str:
    """Draw each group's scale as a bar from 1 on a log2 axis, with its variation over the batch as a whisker.

    Args:
        groups: in the model's order; those without a scale get no bar.
        described_by: id of the table with the numbers.
        width: of the view box; the image scales.
    """
    row = max(LEAST_ROW, min(ROW, MOST_HEIGHT / max(len(groups), 1)))
    left, right, top = 190.0, width - 70.0, 8.0
    low, high = _octaves(groups)
    bottom = top + row * len(groups)

    def x(exponent: float) -> float:
        return left + (right - left) * (exponent - low) / (high - low)

    step = max(1, math.ceil((high - low) / 8))
    grid = "".join(
        f'<path class="grid" d="M{x(tick):.1f} {top}V{bottom:.1f}" stroke="{INK}" '
        f'stroke-opacity="{0.9 if tick == 0 else 0.25}"/>'
        f'<text class="ink" x="{x(tick):.1f}" y="{bottom + 17:.1f}" text-anchor="middle" fill="{INK}" {FONT}>'
        f"{octave(tick)}</text>"
        for tick in range(math.ceil(low / step) * step, math.floor(high) + 1, step)
    )
    bars = "".join(_bar(group, x, top + row * index, row, left, right) for index, group in enumerate(groups))
    title = (
        f'<text class="ink" x="{(left + right) / 2:.1f}" y="{bottom + 34:.1f}" text-anchor="middle" fill="{INK}" '
        f"{FONT}>times the base learning rate</text>"
    )
    return svg(width, math.ceil(bottom + 44), bars_conclusion(groups), grid + bars + title, "scale-bars", described_by)


def bars_conclusion(groups: Sequence[ScaleGroup]) -> str:
    """Write the chart of scales as one sentence."""
    known = [(group.scale, group.layer) for group in groups if group.scale is not None and group.scale > 0]
    if not known:
        return "No group of parameters has a learning-rate scale."
    (least, slow), (most, fast) = min(known), max(known)
    if most / least < 1.01:
        return f"All {counted(len(known), 'group')} train at the base learning rate."
    return (
        f"Learning-rate scales of {counted(len(known), 'group')}, from {number(least)} for {slow} to {number(most)} "
        f"for {fast}."
    )


def paired_evidence(scales: LrScales, *, width: int = 760, tall: int = 280) -> str:
    """Draw the training losses of the probe on a log axis: uniform, the methods, and the remedies that learned.

    Args:
        scales: with evidence; without losses the image says that there are none.
        width, tall: of the view box; the image scales.
    """
    arms = _arms(scales)
    values = [value for arm in arms for value in arm.losses if value is not None and value > 0]
    if not values:
        return svg(width, 40, "The probe recorded no losses.", "", "paired-evidence", None)
    longest = max(len(arm.losses) for arm in arms)
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.05 * (high - low), 0.01)
    frame = Frame(64, 12, width - 64 - 196, tall - 12 - 44, low - margin, high + margin, max(longest, 2))
    parts = [losses_axis(frame), positions(frame, "step of the probe")]
    for arm in arms:
        if arm.is_main:
            parts.append(line(frame, stretched(arm.losses, longest), f"{arm.style} raw", arm.colour, weight=0.6))
        smooth = stretched(smoothed(arm.losses), longest)
        parts.append(line(frame, smooth, arm.style, arm.colour, weight=2.2 if arm.is_main else 1.0))
    named = [(smoothed(arm.losses), shortened(arm.name, 24), arm.colour) for arm in arms]
    parts.append(names_at_ends(frame, named))
    return svg(width, tall, evidence_conclusion(scales), "".join(parts), "paired-evidence", None)


def evidence_conclusion(scales: LrScales) -> str:
    """Write the chart of losses as one sentence."""
    ends = {arm.name: next((v for v in reversed(smoothed(arm.losses)) if v), None) for arm in _arms(scales)}
    endings = [f"{name} ends at {number(end)}" for name, end in ends.items() if end is not None]
    steps = f" over {counted(scales.evidence.steps, 'step')}" if scales.evidence is not None else ""
    return f"Training loss of each arm at its best rate{steps}: {'; '.join(endings) or 'nothing was recorded'}."


@dataclass(frozen=True)
class _Arm:
    """One line of the chart of losses."""

    name: str
    losses: Series
    style: str
    colour: str
    is_main: bool


def _arms(scales: LrScales) -> list[_Arm]:
    """List uniform, then the methods, then the remedies that learned."""
    arms = []
    for curve in best_curves(scales):
        if curve.arm == UNIFORM:
            arms.append(_Arm(curve.arm, curve.losses, "forward", FORWARD, True))
        elif curve.arm == scales.method:
            arms.append(_Arm(curve.arm, curve.losses, "backward", BACKWARD, True))
        else:
            arms.append(_Arm(curve.arm, curve.losses, "grid", INK, False))
    learned = (remedy for remedy in scales.remedies if remedy.learned and remedy.curve)
    return arms + [_Arm(one.name.replace("_", " "), one.curve, "remedy", LEARNED, True) for one in learned]


def best_curves(scales: LrScales) -> list[ProbeCurve]:
    """Choose each arm's curve at its best base rate, with the lowest mean of log loss; uniform is first."""
    best: dict[str, ProbeCurve] = {}
    for curve in scales.evidence.curves if scales.evidence is not None else ():
        known = best.get(curve.arm)
        if known is None or _mean_log(curve.losses) < _mean_log(known.losses):
            best[curve.arm] = curve
    return sorted(best.values(), key=lambda curve: curve.arm != UNIFORM)


def smoothed(losses: Series) -> list[float | None]:
    """Return means over the last ten steps, or as many as there are; diverged steps are left out."""
    means: list[float | None] = []
    for end in range(1, len(losses) + 1):
        known = [value for value in losses[max(0, end - SMOOTHED) : end] if value is not None]
        means.append(sum(known) / len(known) if known else None)
    return means


def _mean_log(losses: Series) -> float:
    if any(value is None for value in losses):
        return math.inf  # diverged
    known = [math.log(value) for value in losses if value is not None and value > 0]
    return sum(known) / len(known) if known else math.inf


def stretched(losses: Series, longest: int) -> Series:
    """Extend a line that ended early with missing values."""
    return [*losses, *[None] * (longest - len(losses))]


def losses_axis(frame: Frame) -> str:
    """Draw about four round losses: evenly apart, or by decades where they span many."""
    span = frame.high - frame.low
    if span <= NARROW and abs(frame.low) < EXTREME and abs(frame.high) < EXTREME:
        exponents = _even_losses(10**frame.low, 10**frame.high)
    else:
        step, bases = max(1, math.ceil(span / 6)), (0.0,) if span > 2 else (0.0, math.log10(2), math.log10(5))
        whole = range(math.floor(frame.low / step) * step, math.ceil(frame.high) + 1, step)
        exponents = [exponent + base for exponent in whole for base in bases]
    shown = (exponent for exponent in exponents if frame.low <= exponent <= frame.high)
    return "".join(height(frame, exponent, _loss(exponent)) for exponent in shown)


def _even_losses(bottom: float, top: float) -> list[float]:
    size = 10 ** math.floor(math.log10((top - bottom) / 4))
    step = next(base * size for base in (1, 2, 5, 10) if (top - bottom) / (base * size) <= 5)
    first = max(math.ceil(bottom / step), 1)
    return [math.log10(step * multiple) for multiple in range(first, math.floor(top / step) + 1)]


def _loss(exponent: float) -> str:
    return number(10**exponent) if abs(exponent) < EXTREME else f"1e{exponent:.0f}"


def _octaves(groups: Sequence[ScaleGroup]) -> tuple[float, float]:
    """Return the range of log2 that contains every bar and whisker, and 1."""
    ends = [end for group in groups for end in (_whisker(group) or ())]
    low, high = min([*ends, -1.0]), max([*ends, 1.0])
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _whisker(group: ScaleGroup) -> tuple[float, float] | None:
    if group.scale is None or group.scale <= 0:
        return None
    away = math.log2(1 + group.cv) if group.cv is not None and group.cv > 0 else 0.0
    return math.log2(group.scale) - away, math.log2(group.scale) + away


def _bar(group: ScaleGroup, x: Callable[[float], float], y: float, row: float, left: float, right: float) -> str:
    ends, middle = _whisker(group), y + row / 2
    parts = []
    if row >= NAMED_ROW:
        parts.append(_word(left - 8, middle, "end", shortened(group.layer, 26)))
    if ends is None or group.scale is None:
        return "".join(parts)
    value, thick = math.log2(group.scale), max(row * 0.6, 1.0)
    start, width = min(x(0), x(value)), max(abs(x(value) - x(0)), 1.0)
    parts.append(
        f'<rect class="backward-mark" x="{start:.1f}" y="{middle - thick / 2:.1f}" width="{width:.1f}" '
        f'height="{thick:.1f}" fill="{BACKWARD}"><title>{escaped(group.layer)}: {number(group.scale)} times</title>'
        "</rect>"
    )
    if ends[0] < ends[1] and row >= 5:
        whisker = f"M{x(ends[0]):.1f} {middle:.1f}H{x(ends[1]):.1f}"
        parts.append(f'<path class="grid" d="{whisker}" stroke="{INK}" stroke-width="1.5"/>')
    if row >= NAMED_ROW:
        parts.append(_word(right + 8, middle, "start", f"× {number(group.scale)}"))
    return "".join(parts)


def _word(x: float, y: float, anchor: str, text: str) -> str:
    return (
        f'<text class="ink" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}" fill="{INK}" {FONT}>'
        f"{escaped(text)}</text>"
    )
