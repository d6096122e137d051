"""How pages write times, sizes and numbers."""

from __future__ import annotations

from datetime import datetime

from markupsafe import Markup, escape

from gradinspect.report.words.figures import amount, duration, size
from gradinspect.wording import number, percent

_STEPS = ((60, "second"), (60, "minute"), (24, "hour"), (30, "day"), (12, "month"))


def ago(then: datetime, now: datetime) -> str:
    """An age in its largest unit: 5 minutes ago."""
    age = max((now - then).total_seconds(), 0.0)
    if age < 5:
        return "just now"
    for most, unit in _STEPS:
        if age < most:
            return f"{_counted(int(age), unit)} ago"
        age /= most
    return f"{_counted(int(age), 'year')} ago"


def shape(sizes: tuple[int, ...]) -> str:
    """128 × 64."""
    return " × ".join(str(one) for one in sizes)


def decades(slope: float) -> str:
    """A fall or rise in powers of ten, with its sign."""
    rounded = round(slope, 1) or 0.0
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else ''}{abs(rounded):.1f}"


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def marked(message: str) -> Markup:
    """A message with the names between backticks as code; everything is escaped."""
    parts = message.split("`")
    if len(parts) % 2 == 0:  # a name holds a backtick itself
        return escape(message)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


FILTERS = {
    "amount": amount, "decades": decades, "duration": duration, "marked": marked, "number": number,
    "percent": percent, "shape": shape, "size": size,
}  # fmt: skip
