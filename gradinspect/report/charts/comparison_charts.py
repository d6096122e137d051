"""Charts of two inspections: both signals, and the change of every layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from gradinspect.contracts.report.comparison import LayerComparison, Ratio
from gradinspect.report.charts.plotting import (
    BACKWARD,
    FAULT,
    FORWARD,
    INK,
    MOST_MARKS,
    Frame,
    axes,
    decades,
    escaped,
    height,
    line,
    names_at_ends,
    octave,
    positions,
    svg,
)
from gradinspect.wording import counted, number

Measure = Literal["signal_rms", "cumulative_backward_gain", "backward_gain", "forward_gain", "grad_norm"]
TITLES: dict[Measure, str] = {
    "signal_rms": "backward signal", "cumulative_backward_gain": "cumulative backward gain",
    "backward_gain": "backward gain", "forward_gain": "forward gain", "grad_norm": "gradient norm",
}  # fmt: skip
_POSITIONS = "input ← layer calls that both sides have → output"
MOST_OCTAVES = 40.0  # a ratio beyond a trillion-fold is drawn at the edge


def overlaid_signals(
    layers: Sequence[LayerComparison], *, described_by: str | None = None, width: int = 760, tall: int = 280
) -> str:
    """Draw the backward signal of both sides against depth, each relative to its own last layer call."""
    base = [row.cumulative_backward_gain.base for row in layers]
    head = [row.cumulative_backward_gain.head for row in layers]
    low, high = decades([value for value in (*base, *head) if value is not None and value > 0])
    frame = Frame(52, 14, width - 52 - 96, tall - 14 - 42, low, high, max(len(layers), 1))
    parts = [
        axes(frame, _POSITIONS),
        line(frame, base, "base", FORWARD, dashed=True),
        line(frame, head, "head", BACKWARD),
        names_at_ends(frame, ((base, "base", FORWARD), (head, "head", BACKWARD))),
    ]
    return svg(width, tall, signals_conclusion(layers), "".join(parts), "overlaid-signals", described_by)


def signals_conclusion(layers: Sequence[LayerComparison]) -> str:
    """Write the overlay as one sentence."""
    first = next((row.cumulative_backward_gain for row in layers if row.cumulative_backward_gain.log2_ratio), None)
    if first is None or first.base is None or first.head is None:
        return f"Backward signals of both sides over {counted(len(layers), 'layer call')} that both have."
    return (
        f"Of the backward signal {number(first.base)} arrived at the input side in the base and {number(first.head)} "
        f"in the head, over {counted(len(layers), 'layer call')} that both have."
    )


def ratio_profile(
    layers: Sequence[LayerComparison],
    *,
    measure: Measure = "signal_rms",
    described_by: str | None = None,
    width: int = 760,
    tall: int = 260,
) -> str:
    """Draw log2(head / base) of one number for every layer call, with the band that the variation over seeds explains.

    Args:
        layers: matched layer calls in depth order.
        measure: the number to compare.
        described_by: id of the table with the numbers.
        width, tall: of the view box; the image scales.
    """
    ratios: list[Ratio] = [getattr(row, measure) for row in layers]
    reach = max([1.0, *(abs(_drawn(ratio)) for ratio in ratios if ratio.log2_ratio is not None)])
    reach = max([reach, *(min(ratio.noise, MOST_OCTAVES) for ratio in ratios if ratio.noise is not None)]) * 1.08
    frame = Frame(64, 14, width - 64 - 30, tall - 14 - 42, -reach, reach, max(len(layers), 1))
    step = max(1, math.ceil(reach / 3))
    ticks = range(-math.floor(reach / step) * step, math.floor(reach) + 1, step)
    parts = [
        _band(frame, ratios),
        *(height(frame, tick, octave(tick) if tick else "same") for tick in ticks),
        _zero(frame),
        positions(frame, _POSITIONS),
        *_changes(frame, layers, ratios),
    ]
    label = profile_conclusion(layers, measure=measure)
    return svg(width, tall, label, "".join(parts), "ratio-profile", described_by)


def profile_conclusion(layers: Sequence[LayerComparison], *, measure: Measure = "signal_rms") -> str:
    """Write the profile as one sentence."""
    differences = [getattr(row, measure).difference for row in layers]
    parts = [
        f"{differences.count(word)} {text}"
        for word, text in (
            ("larger", "larger"), ("smaller", "smaller"), ("within_noise", "within what seeds explain"),
            ("same", "the same"), ("unknown", "not comparable"),
        )
        if differences.count(word)
    ]  # fmt: skip
    what = f"{TITLES[measure]} of {counted(len(layers), 'layer call')}, head against base"
    return f"{what[0].upper()}{what[1:]}: {', '.join(parts) or 'nothing to compare'}."


def _drawn(ratio: Ratio) -> float:
    return max(-MOST_OCTAVES, min(ratio.log2_ratio or 0.0, MOST_OCTAVES))


def _band(frame: Frame, ratios: Sequence[Ratio]) -> str:
    """Draw the band of the variation over seeds, where it is known."""
    known = [(index, min(ratio.noise, MOST_OCTAVES)) for index, ratio in enumerate(ratios) if ratio.noise is not None]
    if not known:
        return ""
    upper = [f"{frame.x(index):.1f} {frame.y_of_decade(noise):.1f}" for index, noise in known]
    lower = [f"{frame.x(index):.1f} {frame.y_of_decade(-noise):.1f}" for index, noise in reversed(known)]
    return f'<path class="band" d="M{"L".join([*upper, *lower])}z" fill="{INK}" fill-opacity="0.18"/>'


def _zero(frame: Frame) -> str:
    return f'<path class="grid" d="M{frame.left} {frame.y_of_decade(0):.1f}h{frame.width}" stroke="{INK}"/>'


def _changes(frame: Frame, layers: Sequence[LayerComparison], ratios: Sequence[Ratio]) -> list[str]:
    """Draw a stem for each layer call: hollow where seeds explain it, a tick on the zero line without a ratio."""
    is_crowded = len(layers) > MOST_MARKS
    radius = 0.0 if is_crowded else 3.5 if len(layers) <= 60 else 2.0
    parts = []
    for index, (row, ratio) in enumerate(zip(layers, ratios, strict=True)):
        x, zero = frame.x(index), frame.y_of_decade(0)
        if ratio.log2_ratio is None:
            parts.append(f'<path class="fault" d="M{x:.1f} {zero - 4:.1f}v8" stroke="{FAULT}" stroke-width="1.5"/>')
            continue
        y = frame.y_of_decade(_drawn(ratio))
        is_real = ratio.difference in ("larger", "smaller")
        name, colour = ("head", BACKWARD) if is_real else ("grid", INK)
        parts.append(f'<path class="{name}" d="M{x:.1f} {zero:.1f}V{y:.1f}" stroke="{colour}" stroke-width="1.5"/>')
        if radius:
            fill = colour if is_real else "none"
            words = f"{row.head}: {_sign(ratio.log2_ratio)} ({ratio.difference.replace('_', ' ')})"
            parts.append(
                f'<circle class="{name}-mark" cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{colour}">'
                f"<title>{escaped(words)}</title></circle>"
            )
    return parts


def _sign(log2_ratio: float) -> str:
    factor = 2 ** max(-300.0, min(log2_ratio, 300.0))
    return f"{number(factor)} times"
