"""How pages write times and changes. Filters that reports use too are in `gradinspect.report.html.environment`."""

from __future__ import annotations

from datetime import datetime

_STEPS = ((60, "second"), (60, "minute"), (24, "hour"), (30, "day"), (12, "month"))


def ago(then: datetime | None, now: datetime) -> str:
    """Write an age in its largest unit: 5 minutes ago. None is now."""
    age = max((now - then).total_seconds(), 0.0) if then is not None else 0.0
    if age < 5:
        return "just now"
    for most, unit in _STEPS:
        if age < most:
            return f"{_counted(int(age), unit)} ago"
        age /= most
    return f"{_counted(int(age), 'year')} ago"


def decades(change: float) -> str:
    """Write a fall or rise in powers of ten, with its sign: −8.5."""
    rounded = round(change, 1) or 0.0
    return f"{'−' if rounded < 0 else '+' if rounded > 0 else ''}{abs(rounded):.1f}"


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


FILTERS = {"ago": ago, "decades": decades}
