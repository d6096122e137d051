"""How reports write figures and names, in every form that they take. Numbers themselves: wording.py."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Controls, formats (bidirectional overrides among them), surrogates, private use, line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def printable(text: str) -> str:
    """A stranger's text on one line, without anything that could steer a terminal or reorder a line."""
    if text.isascii() and text.isprintable():
        return text
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in _UNPRINTABLE else c for c in text)


def shortened(text: str, most: int) -> str:
    """A name cut in its middle: both the block it is in and what it is in there stay readable."""
    if len(text) <= most:
        return text
    kept = most - 1
    tail = -(-kept * 2 // 3)
    return f"{text[: kept - tail]}…{text[len(text) - tail :]}"


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
    for size_of_unit, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if count >= size_of_unit:
            return f"{count / (1e3 if letter == 'k' else size_of_unit):.3g} {letter}"
    return f"{count:,}"


def size(count: int) -> str:
    """Bytes in binary units."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.3g} {unit}"
        value /= 1024
    raise AssertionError("the last unit has returned")


def shape(sizes: Sequence[int]) -> str:
    """128×64."""
    return "×".join(str(one) for one in sizes)
