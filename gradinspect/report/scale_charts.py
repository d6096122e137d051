"""Charts of learning-rate scales: the scales with their spread, and the losses that the answer rests on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gradinspect.contracts.report import LrScales, ProbeCurve, ScaleGroup
from gradinspect.report.figures import shortened
from gradinspect.report.plotting import (
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
    places,
    svg,
)
from gradinspect.rules.wording import counted, number

ROW, LEAST_ROW, MOST_HEIGHT = 20.0, 2.0, 1_200.0
NAMED_ROW = 11.0  # a name needs that much room
SMOOTHED = 10  # steps; what the gate compares is smoothed so, too
UNIFORM = "uniform"


def scale_bars(groups: Sequence[ScaleGroup], *, described_by: str | None = None, width: int = 760) -> str:
    """Draw each group's scale as a bar from 1 on a log2 axis, with its variation over the batch as a whisker.

    Args:
        groups: in the model's order; those without a scale get no bar.
        described_by: id of the table that holds the numbers.
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
    """The chart of scales in one sentence."""
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


def paired_evidence(scales: LrScales, *, width: int = 760, height_: int = 280) -> str:
    """Draw the training losses of the probe on a log axis: uniform and the suggestion bold, other arms thin.

    Args:
        scales: with evidence; without curves the image only says so.
        width, height_: of the view box; the image scales.
    """
    curves = best_curves(scales)
    values = [value for curve in curves for value in curve.losses if value is not None and value > 0]
    longest = max((len(curve.losses) for curve in curves), default=0)
    if not values:
        return svg(width, 40, "The probe kept no losses to draw.", "", "paired-evidence", None)
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.05 * (high - low), 0.01)
    frame = Frame(64, 12, width - 64 - 130, height_ - 12 - 44, low - margin, high + margin, max(longest, 2))
    chosen = scales.method if scales.method != UNIFORM else None
    parts, named = [_losses_axis(frame), places(frame, "step of the probe")], []
    for curve in curves:
        colour = FORWARD if curve.arm == UNIFORM else BACKWARD if curve.arm == chosen else INK
        name = "forward" if curve.arm == UNIFORM else "backward" if curve.arm == chosen else "grid"
        is_main = curve.arm in (UNIFORM, chosen)
        smooth = smoothed(curve.losses)
        parts.append(line(frame, _stretched(curve.losses, longest), f"{name} raw", colour, weight=0.6))
        parts.append(line(frame, _stretched(smooth, longest), name, colour, weight=2.2 if is_main else 1))
        if is_main:
            named.append((smooth, curve.arm, colour))
    parts.append(names_at_ends(frame, named))
    return svg(width, height_, evidence_conclusion(scales), "".join(parts), "paired-evidence", None)


def evidence_conclusion(scales: LrScales) -> str:
    """The chart of losses in one sentence."""
    ends = {curve.arm: next((v for v in reversed(smoothed(curve.losses)) if v), None) for curve in best_curves(scales)}
    said = [f"{arm} ends at {number(end)}" for arm, end in ends.items() if end is not None]
    steps = f" over {counted(scales.evidence.steps, 'step')}" if scales.evidence is not None else ""
    return f"Training loss of each arm at its best rate{steps}: {'; '.join(said) or 'nothing was kept'}."


def best_curves(scales: LrScales) -> list[ProbeCurve]:
    """The curve of each arm at its own best base rate, uniform first: lowest mean of log loss."""
    best: dict[str, ProbeCurve] = {}
    for curve in scales.evidence.curves if scales.evidence is not None else ():
        held = best.get(curve.arm)
        if held is None or _mean_log(curve.losses) < _mean_log(held.losses):
            best[curve.arm] = curve
    return sorted(best.values(), key=lambda curve: curve.arm != UNIFORM)


def smoothed(losses: Series) -> list[float | None]:
    """Means over the last ten steps, as far as there are any; what diverged stays out."""
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


def _stretched(losses: Series, longest: int) -> Series:
    """A line that ended early is as long as the others, with nothing to draw at its end."""
    return [*losses, *[None] * (longest - len(losses))]


def _losses_axis(frame: Frame) -> str:
    """Four round losses between the lowest and the highest."""
    bottom, top = 10**frame.low, 10**frame.high
    size = 10 ** math.floor(math.log10((top - bottom) / 4))
    step = next(base * size for base in (1, 2, 5, 10) if (top - bottom) / (base * size) <= 5)
    first = math.ceil(bottom / step)
    losses = [step * place for place in range(first, math.floor(top / step) + 1) if step * place > 0]
    return "".join(height(frame, math.log10(loss), number(loss)) for loss in losses)


def _octaves(groups: Sequence[ScaleGroup]) -> tuple[float, float]:
    """The range of log2 that holds every bar and whisker, and 1 in any case."""
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
