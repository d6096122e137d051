"""Suggestions for misspelt names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_LETTERS = 64  # chosen: longer than every known name; the search is linear in the length, for each of them


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` for a name that is nearly one of `known`, or nothing.

    >>> did_you_mean("out_featurs", ["in_features", "out_features"])
    "; did you mean 'out_features'?"
    >>> did_you_mean("bias", ["weight"])
    ''
    """
    close = get_close_matches(name, known, n=1) if len(name) <= MAX_LETTERS else []
    return f"; did you mean {close[0]!r}?" if close else ""
