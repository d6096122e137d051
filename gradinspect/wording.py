"""Formatting of numbers and names in findings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradinspect.contracts.report.trial import TrialArm
from gradinspect.contracts.request.policy import Compares, Threshold

_BOUNDS: dict[Compares, str] = {
    "above": "above {}",
    "reaches": "at or above {}",
    "below": "below {}",
    "outside": "outside {}",
    "present": "{}",
}
_OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
_SCALES = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def fold(factor: float) -> str:
    """Write a factor of change in either direction: 4.3-million-fold, 28,000-fold, 3.2-fold.

    >>> fold(0.25)
    '4-fold'
    """
    size = factor if factor >= 1 else (1 / factor if factor > 0 else math.inf)
    if size >= 1e15 or math.isinf(size):
        return "more than a quadrillion-fold"
    for scale, word in _SCALES:
        if size >= scale:
            return f"{size / scale:.2g}-{word}-fold" if size / scale < 100 else f"{size / scale:.0f}-{word}-fold"
    if size >= 100:
        return f"{float(f'{size:.2g}'):,.0f}-fold"
    return f"{size:.2g}-fold"


def number(value: float) -> str:
    """Write three significant digits, without a needless exponent.

    >>> number(123456.0), number(1e-5)
    ('123,456', '1e-5')
    """
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def percent(share: float) -> str:
    """Write a share as a percentage that never rounds to 0 or 100 unless it is.

    >>> percent(0.99999)
    'over 99.9 %'
    """
    value = 100 * share
    if 0 < value < 0.1:
        return "under 0.1 %"
    if 99.9 < value < 100:
        return "over 99.9 %"
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


def quoted(name: str) -> str:
    """Put a name from the model into backquotes, cut to 80 characters."""
    return f"`{name if len(name) <= 80 else name[:77] + '…'}`"


def listed(names: Sequence[str], most: int = 3) -> str:
    """List a few names, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    '`a`, `b` and 1 more'
    """
    shown = ", ".join(quoted(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def counted(count: int, noun: str) -> str:
    """Write a count with its noun: 1 layer, 2 layers."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def bound_in_words(compares: Compares, threshold: Threshold) -> str:
    """Write when a rule fires: above 70."""
    if isinstance(threshold, tuple):
        return _BOUNDS[compares].format(f"{number(threshold[0])} … {number(threshold[1])}")
    return _BOUNDS[compares].format(number(threshold))


def run_in_words(arm: TrialArm) -> str:
    """Name a training run by its optimizer and rate.

    >>> run_in_words(TrialArm(optimizer="sgd", momentum=0.9, lr=0.01, outcome="learns"))
    'SGD with momentum 0.9 at 0.01'
    """
    momentum = f" with momentum {arm.momentum:g}" if arm.momentum else ""
    return f"{_OPTIMIZERS.get(arm.optimizer, arm.optimizer)}{momentum} at {arm.lr:g}"
