"""The chart of a learning trial: what each run left to learn, step by step."""

from __future__ import annotations

import math

from gradinspect.contracts.report.trial import Trial
from gradinspect.report.charts.plotting import (
    BACKWARD,
    FAULT,
    FORWARD,
    Frame,
    height,
    line,
    names_at_ends,
    positions,
    svg,
)
from gradinspect.report.charts.scale_charts import LEARNED
from gradinspect.report.words.figures import shortened
from gradinspect.report.words.trial_words import remaining, trial_answer
from gradinspect.wording import counted, run_in_words

LEAST, MOST = 0.01, 100.0  # of what can be learned; a run outside is drawn at the edge
_GUIDES = (
    (0.0, "chance"),
    (math.log10(0.5), "learned"),
    (1.0, "× 10"),
    (-1.0, "÷ 10"),
    (2.0, "× 100"),
    (-2.0, "÷ 100"),
)
_COLOURS = {"learns": LEARNED, "slow": FORWARD, "diverges": FAULT}


def trial_curves(trial: Trial, *, described_by: str | None = None, width: int = 760, tall: int = 260) -> str:
    """Draw the runs of a trial on a log axis on which 1 is the best constant output.

    Args:
        trial: with runs; without a scale the image says so.
        described_by: id of the table with the runs.
        width, tall: of the view box; the image scales.
    """
    curves = [(arm, [_inside(value) for value in remaining(trial, arm)]) for arm in trial.arms]
    values = [value for _, curve in curves for value in curve if value is not None]
    label = curves_conclusion(trial)
    if not values:
        return svg(width, 40, label, "", "trial-curves", described_by)
    low, high = math.log10(min(*values, 0.5)), math.log10(max(*values, 1.0))
    margin = max(0.06 * (high - low), 0.02)
    longest = max(len(curve) for _, curve in curves)
    frame = Frame(64, 12, width - 64 - 196, tall - 12 - 44, low - margin, high + margin, max(longest, 2))
    parts = [height(frame, at, word) for at, word in _GUIDES if frame.low <= at <= frame.high]
    parts.append(positions(frame, "training step"))
    for arm, curve in curves:
        padded = [*curve, *[None] * (longest - len(curve))]
        colour = _COLOURS.get(arm.outcome, BACKWARD)
        parts.append(line(frame, padded, arm.outcome, colour, weight=2.4 if arm.declared else 1.4))
    named = [
        (curve, shortened(run_in_words(arm), 26), _COLOURS.get(arm.outcome, BACKWARD)) for arm, curve in curves if curve
    ]
    parts.append(names_at_ends(frame, named))
    return svg(width, tall, label, "".join(parts), "trial-curves", described_by)


def curves_conclusion(trial: Trial) -> str:
    """Write the chart as one sentence."""
    return f"Training loss of {counted(len(trial.arms), 'run')}. {trial_answer(trial)}"


def _inside(value: float | None) -> float | None:
    return None if value is None else min(max(value, LEAST), MOST)
