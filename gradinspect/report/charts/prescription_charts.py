"""The training loss before and after a prescription."""

from __future__ import annotations

import math

from gradinspect.contracts.report.trial import Prescription
from gradinspect.report.charts.plotting import BACKWARD, Frame, Series, line, names_at_ends, positions, svg
from gradinspect.report.charts.scale_charts import LEARNED, losses_axis, stretched
from gradinspect.wording import number


def before_and_after(found: Prescription, *, width: int = 760, tall: int = 240) -> str:
    """Draw both losses on a log axis against the steps.

    Args:
        found: with curves; without losses above 0 the image says that there are none.
        width, tall: of the view box; the image scales.
    """
    curves: list[tuple[str, Series, str, str]] = [
        ("as it was", found.curve_before, "backward", BACKWARD),
        ("with the changes", found.curve, "remedy", LEARNED),
    ]
    values = [value for _, losses, _, _ in curves for value in losses if value is not None and value > 0]
    if not values:
        return svg(width, 40, "No losses were recorded.", "", "before-and-after", None)
    longest = max(len(losses) for _, losses, _, _ in curves)
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.05 * (high - low), 0.01)
    frame = Frame(64, 12, width - 64 - 196, tall - 12 - 44, low - margin, high + margin, max(longest, 2))
    parts = [losses_axis(frame), positions(frame, "training step")]
    parts += [line(frame, stretched(losses, longest), style, colour, weight=2.0) for _, losses, style, colour in curves]
    parts.append(names_at_ends(frame, [(losses, name, colour) for name, losses, _, colour in curves if losses]))
    return svg(width, tall, curves_conclusion(found), "".join(parts), "before-and-after", None)


def curves_conclusion(found: Prescription) -> str:
    """Write the chart as one sentence."""
    before = next((value for value in reversed(found.curve_before) if value is not None), None)
    after = next((value for value in reversed(found.curve) if value is not None), None)
    if after is None:
        return "Training loss; nothing was recorded."
    was = f", and at {number(before)} without them" if before is not None else ""
    return f"Training loss with the changes: it ends at {number(after)}{was}."
