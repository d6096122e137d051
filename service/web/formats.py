"""How pages write times, sizes and numbers."""

from __future__ import annotations

from datetime import datetime

from markupsafe import Markup, escape

from gradinspect.rules.wording import number, percent

_STEPS = ((60, "second"), (60, "minute"), (24, "hour"), (30, "day"), (12, "month"))


def ago(then: datetime, now: datetime) -> str:
    """An age in its largest unit: 5 minutes ago."""
    amount = max((now - then).total_seconds(), 0.0)
    if amount < 5:
        return "just now"
    for size, unit in _STEPS:
        if amount < size:
            return f"{_counted(int(amount), unit)} ago"
        amount /= size
    return f"{_counted(int(amount), 'year')} ago"


def duration(seconds: float) -> str:
    """A duration with two digits or so: 0.42 s, 12 s, 3 min 20 s."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def amount(count: int) -> str:
    """A count that may be large: 1,234, 12.3 k, 7.1 M, 1.3 B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if count >= size:
            return f"{count / (1e3 if letter == 'k' else size):.3g} {letter}"
    return f"{count:,}"


def size(count: int) -> str:
    """Bytes in binary units."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.3g} {unit}"
        value /= 1024
    raise AssertionError("the last unit has returned")


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
