"""The trace of a matrix from its products: the mean of vᵀHv over random signs v.

Source: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines".
The estimate is unbiased: E[v_i v_j] = δ_ij, so E[vᵀHv] = Σ H_ii. The block of one parameter needs no products of its
own, because E[v_bᵀ(Hv)_b] = tr H_bb: products with the other signs have mean zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch


@dataclass(frozen=True)
class Trace:
    """An estimated trace.

    Attributes:
        value: the mean over the probes; NaN where a probe is not finite.
        stderr: standard error of that mean; None for a single probe or one that is not finite.
    """

    value: float
    stderr: float | None


def signs(count: int, draws: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """Draw ±1 with equal probability, eight from each random byte: (count,), dtype and device of `like`."""
    packed = torch.randint(0, 256, (-(-count // 8),), generator=draws, dtype=torch.uint8)
    table = ((torch.arange(256).unsqueeze(1) >> torch.arange(8)) & 1).mul_(2).sub_(1).to(like)  # (256, 8)
    return table[packed.to(like.device).long()].reshape(-1)[:count]


def trace_of(probes: Sequence[Sequence[float]], blocks: Iterable[int]) -> Trace:
    """Estimate the trace over some blocks.

    Args:
        probes: v_bᵀ(Hv)_b of each block b, one row for each random vector v.
        blocks: indices of the blocks to add up.

    The trace of [[2, 1], [1, 3]] is 5; vᵀHv is 7 for equal signs and 3 for opposite ones:

    >>> trace_of([[3.0, 4.0], [1.0, 2.0]], blocks=[0, 1])
    Trace(value=5.0, stderr=2.0)
    """
    chosen = list(blocks)
    totals = [math.fsum(probe[block] for block in chosen) for probe in probes]
    if not all(map(math.isfinite, totals)):
        return Trace(math.nan, None)
    return Trace(fmean(totals), stdev(totals) / math.sqrt(len(totals)) if len(totals) > 1 else None)
