"""Query parameters of lists, read into values that a query can take; every mistake names its parameter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Literal

from gradinspect.contracts.problems import FieldError, ProblemError

Comparison = Literal["lt", "lte", "gt", "gte", "eq"]
COMPARISONS: tuple[Comparison, ...] = ("lt", "lte", "gt", "gte", "eq")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
MAX_FILTERS = 32
TIME_FORM = (
    "is a time with its zone, such as 2026-01-31T12:00:00Z or 2026-01-31T12:00:00%2B00:00 (in a URL, + is written %2B)"
)

Params = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class NumberFilter:
    """`grad_norm__lt=1e-7`."""

    field: str
    comparison: Comparison
    value: float | int


@dataclass(frozen=True)
class RowFilters:
    """What a list of layers or parameters is asked for."""

    numbers: tuple[NumberFilter, ...]
    texts: tuple[tuple[str, str], ...]
    sort: str | None
    is_descending: bool
    cursor: str | None
    limit: str | None


def single_values(params: Params, known: Sequence[str], *, repeatable: Sequence[str] = ()) -> dict[str, list[str]]:
    """Read parameters by name.

    Raises:
        ProblemError: `invalid_request` for an unknown parameter, or one given twice that counts once.
    """
    found: dict[str, list[str]] = {}
    for name, value in params:
        if name not in known:
            raise wrong(name, f"unknown parameter; known are {', '.join(known)}")
        if name in found and name not in repeatable:
            raise wrong(name, "is given twice")
        if "\x00" in value:
            raise wrong(name, "holds a NUL character")
        found.setdefault(name, []).append(value)
        if len(found[name]) > MAX_FILTERS:
            raise wrong(name, f"is given more than {MAX_FILTERS} times")
    return found


def row_filters(params: Params, *, numbers: Iterable[str], texts: Sequence[str]) -> RowFilters:
    """Read the parameters of a list of layers or parameters.

    Args:
        numbers: fields that can be compared and sorted by.
        texts: fields that can be asked for by equality.

    Raises:
        ProblemError: `invalid_request`, naming the parameter and what is known.
    """
    fields = sorted(numbers)
    comparable = {f"{field}__{comparison}": (field, comparison) for field in fields for comparison in COMPARISONS}
    comparable |= {field: (field, "eq") for field in fields}
    plain: dict[str, str] = {}
    compared: dict[str, NumberFilter] = {}
    for name, value in params:
        if name in plain or name in compared:
            raise wrong(name, "is given twice")
        if name in comparable:
            field, comparison = comparable[name]
            compared[name] = NumberFilter(field, comparison, _number(name, value))
        elif name in texts or name in ("sort", "cursor", "limit"):
            if "\x00" in value:
                raise wrong(name, "holds a NUL character")
            plain[name] = value
        else:
            raise wrong(name, _unknown(name, fields, texts))
    if len(compared) > MAX_FILTERS:
        raise wrong("", f"more than {MAX_FILTERS} filters")
    sort = plain.get("sort")
    if sort is not None and sort.removeprefix("-") not in fields:
        raise wrong("sort", f"cannot sort by {sort.removeprefix('-')[:80]!r}; known are {', '.join(fields)}")
    return RowFilters(
        numbers=tuple(compared.values()),
        texts=tuple((name, plain[name]) for name in texts if name in plain),
        sort=None if sort is None else sort.removeprefix("-"),
        is_descending=sort is not None and sort.startswith("-"),
        cursor=plain.get("cursor"),
        limit=plain.get("limit"),
    )


def one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """Check a parameter that has few values.

    Raises:
        ProblemError: `invalid_request`, naming them.
    """
    if value not in allowed:
        raise wrong(name, f"is one of {', '.join(allowed)}")
    return value


def moment(name: str, value: str) -> datetime:
    """Read a time.

    Raises:
        ProblemError: `invalid_request`, when it is not RFC 3339 with a time zone.
    """
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is None:
            raise ValueError
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise wrong(name, TIME_FORM) from None


def wrong(name: str, detail: str) -> ProblemError:
    """A parameter is wrong."""
    shown = name[:80]
    place = "/" + shown.replace("~", "~0").replace("/", "~1") if shown else ""
    return ProblemError("invalid_request", f"{shown}: {detail}", errors=[FieldError(place, detail)])


def _number(name: str, text: str) -> float | int:
    if len(text) <= 64 and _NUMBER.fullmatch(text):
        value: float | int = float(text)
        if text.lstrip("+-").isdecimal():
            value = int(text)
        if isfinite(value) and (isinstance(value, float) or abs(value) < 2**63):
            return value
    raise wrong(name, "is a finite number, 1e-7")


def _unknown(name: str, fields: Sequence[str], texts: Sequence[str]) -> str:
    field, _, comparison = name.partition("__")
    if field in fields:
        return f"unknown comparison {comparison[:20]!r}; known are {', '.join(COMPARISONS)}"
    return f"unknown parameter; known are sort, cursor, limit, {', '.join(texts)} and the numbers {', '.join(fields)}"
