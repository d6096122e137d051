"""Charts of a training run: the signal against depth at several steps, and numbers against steps."""

from __future__ import annotations

from collections.abc import Sequence

from gradinspect.contracts.wire.runs import RunPoint, RunSeries, SignalSeries
from gradinspect.report.charts.plotting import (
    BACKWARD,
    FAULT,
    FONT,
    FORWARD,
    INK,
    Frame,
    Series,
    axes,
    decades,
    escaped,
    height,
    line,
    names_at_ends,
    power,
    svg,
)
from gradinspect.wording import counted, number

MOST_PROFILES = 5  # chosen: more lines look alike
MOST_TICKS = 8


def signal_over_time(
    series: SignalSeries, *, described_by: str | None = None, width: int = 760, tall: int = 320
) -> str:
    """Draw the backward signal against depth at up to five steps, on one log axis: early steps faint, the last bold.

    Args:
        series: of the run.
        described_by: id of the table with the numbers.
        width, tall: of the view box; the image scales.
    """
    chosen = _evenly(range(len(series.steps)), MOST_PROFILES)
    profiles = [[_drawable(value) for value in series.gains[index]] for index in chosen]
    values = [value for profile in profiles for value in profile if value]
    frame = Frame(52, 14, width - 52 - 108, tall - 14 - 42, *decades(values), max(len(series.depths), 1))
    parts = [axes(frame)]
    for place, profile in enumerate(profiles):
        share = (place + 1) / len(profiles)
        drawn = line(frame, profile, "backward", BACKWARD, weight=1.0 + 1.5 * share)
        parts.append(f'<g opacity="{0.25 + 0.75 * share:.2f}">{drawn}</g>')
    named = [
        (profile, f"step {series.steps[index]}", BACKWARD) for index, profile in zip(chosen, profiles, strict=True)
    ]
    parts.append(_names_at_starts(frame, named))
    return svg(width, tall, _conclusion(series), "".join(parts), "signal-over-time", described_by)


def numbers_over_steps(run: RunSeries, *, described_by: str | None = None, width: int = 760, tall: int = 300) -> str:
    """Draw loss and gradient norm against steps.

    The first step of each finding is marked with its rule.

    Args:
        run: the run.
        described_by: id of the table with the numbers.
        width, tall: of the view box.
    """
    losses = [_drawable(point.loss) for point in run.points]
    norms = [_drawable(point.total_grad_norm) for point in run.points]
    values = [value for each in (losses, norms) for value in each if value]
    frame = Frame(52, 30, width - 52 - 108, tall - 30 - 42, *decades(values), max(len(run.points), 1))
    ends: list[tuple[Series, str, str]] = [(norms, "gradient", BACKWARD), (losses, "loss", FORWARD)]
    parts = [
        "".join(height(frame, exponent, power(exponent)) for exponent in _exponents(frame)),
        _step_ticks(frame, run.points),
        _appearances(frame, run),
        line(frame, losses, "forward", FORWARD),
        line(frame, norms, "backward", BACKWARD),
        names_at_ends(frame, ends),
    ]
    return svg(width, tall, _loss_sentence(run.points), "".join(parts), "numbers-over-steps", described_by)


def first_layer_signal(series: SignalSeries) -> list[float | None]:
    """Return the share of the signal at the last layer call that arrives at the first one, for each step."""
    return [row[0] if row else None for row in series.gains]


def _conclusion(series: SignalSeries) -> str:
    arrived = [(step, gain) for step, gain in zip(series.steps, first_layer_signal(series), strict=True) if gain]
    if not arrived:
        return "No signal was measured."
    (first_step, first), (last_step, last) = arrived[0], arrived[-1]
    if first_step == last_step:
        return f"At step {first_step}, {number(first)} of the signal at the output arrives at the first layer call."
    return (
        f"The first layer call gets {number(first)} of the signal at the output at step {first_step}, and "
        f"{number(last)} at step {last_step}."
    )


def _loss_sentence(points: Sequence[RunPoint]) -> str:
    known = [(point.step, point.loss) for point in points if point.loss is not None]
    if not known:
        return f"No finite loss in {counted(len(points), 'watched step')}."
    (first_step, first), (last_step, last) = known[0], known[-1]
    return f"Loss {number(first)} at step {first_step}, {number(last)} at step {last_step}."


def _names_at_starts(frame: Frame, named: Sequence[tuple[Series, str, str]]) -> str:
    """Write the steps in a column to the right of the chart, the last on top: all lines end at the same point."""
    x = frame.left + frame.width + 12
    return "".join(
        f'<text class="backward-text" x="{x}" y="{frame.top + 12 + 18 * place}" fill="{colour}" {FONT} '
        f'opacity="{1.0 - 0.6 * place / max(len(named), 1):.2f}">{escaped(word)}</text>'
        for place, (_, word, colour) in enumerate(reversed(named))
    )


def _step_ticks(frame: Frame, points: Sequence[RunPoint]) -> str:
    bottom = frame.top + frame.height
    parts = [
        f'<path class="grid" d="M{frame.x(index):.1f} {bottom}v4" stroke="{INK}"/><text class="ink" '
        f'x="{frame.x(index):.1f}" y="{bottom + 17}" text-anchor="middle" fill="{INK}" {FONT}>'
        f"{points[index].step}</text>"
        for index in _evenly(range(len(points)), MOST_TICKS)
    ]
    parts.append(
        f'<text class="ink" x="{frame.left + frame.width / 2}" y="{bottom + 34}" text-anchor="middle" fill="{INK}" '
        f"{FONT}>optimizer step</text>"
    )
    return "".join(parts)


def _appearances(frame: Frame, run: RunSeries) -> str:
    """Mark the steps at which findings that fail or warn appear; the first few are named."""
    place_of = {point.step: index for index, point in enumerate(run.points)}
    serious = [finding for finding in run.findings if finding.severity != "info" and finding.first_step in place_of]
    steps: dict[int, list[str]] = {}
    for finding in serious:
        steps.setdefault(finding.first_step, []).append(finding.rule)
    parts = []
    for count, (step, rules) in enumerate(steps.items()):
        x = frame.x(place_of[step])
        word = rules[0] if len(rules) == 1 else f"{rules[0]} + {len(rules) - 1}"
        parts.append(
            f'<path class="guide" d="M{x:.1f} {frame.top}v{frame.height}" stroke="{FAULT}" stroke-dasharray="3 3"/>'
        )
        if count < 4:
            parts.append(
                f'<text class="fault-text" x="{x + 4:.1f}" y="{frame.top - 4 - 12 * (count % 2)}" fill="{FAULT}" '
                f"{FONT}>{escaped(word)}</text>"
            )
    return "".join(parts)


def _exponents(frame: Frame) -> range:
    step = max(1, round((frame.high - frame.low) / 6))
    return range(round(frame.low), round(frame.high) + 1, step)


def _evenly(indices: range, most: int) -> list[int]:
    if len(indices) <= most:
        return list(indices)
    return [indices[index * (len(indices) - 1) // (most - 1)] for index in range(most)]


def _drawable(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None
