"""How reports write counts, durations, sizes and names. Numbers: `gradinspect.wording`."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Controls, formats (bidirectional overrides among them), surrogates, private use, line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def printable(text: str) -> str:
    """Replace what could control a terminal or reorder a line; the text comes from an untrusted model."""
    if text.isascii() and text.isprintable():
        return text
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNPRINTABLE else c for c in text)


def shortened(text: str, most: int) -> str:
    """Cut a name in its middle, so that its block and its own part stay readable."""
    if len(text) <= most:
        return text
    kept = most - 1
    tail = -(-kept * 2 // 3)
    return f"{text[: kept - tail]}…{text[len(text) - tail :]}"


def duration(seconds: float) -> str:
    """Write a duration with about two digits: 0.42 s, 12 s, 3 min 20 s."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def amount(count: int) -> str:
    """Write a count that may be large: 1,234, 12.3 k, 7.1 M, 1.3 B."""
    for size_of_unit, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if count >= size_of_unit:
            return f"{count / (1e3 if letter == 'k' else size_of_unit):.3g} {letter}"
    return f"{count:,}"


def size(count: int) -> str:
    """Write bytes in binary units."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.3g} {unit}"
        value /= 1024
    raise AssertionError("the last unit has returned")


def shape(sizes: Sequence[int]) -> str:
    """Write a shape: 128×64."""
    return "×".join(str(one) for one in sizes)
