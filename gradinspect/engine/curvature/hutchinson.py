"""The trace of a matrix that is known by its products: the mean of vᵀHv over random signs v.

Source: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines".
The block of one parameter needs no products of its own: E[v_bᵀ(Hv)_b] = tr H_bb, the other signs average out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch


@dataclass(frozen=True)
class Trace:
    """An estimate, and the standard error of the mean it is; NaN and None where a probe is not finite.

    A single probe has no standard error.
    """

    value: float
    stderr: float | None


def signs(count: int, draws: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """±1 with equal probability, eight from each random byte: (count,), dtype and device of `like`."""
    packed = torch.randint(0, 256, (-(-count // 8),), generator=draws, dtype=torch.uint8)
    table = ((torch.arange(256).unsqueeze(1) >> torch.arange(8)) & 1).mul_(2).sub_(1).to(like)  # (256, 8)
    return table[packed.to(like.device).long()].reshape(-1)[:count]


def trace_of(probes: Sequence[Sequence[float]], places: Iterable[int]) -> Trace:
    """The trace over some blocks.

    Args:
        probes: for each random vector, v_bᵀ(Hv)_b of each block.
        places: the blocks that are wanted.
    """
    chosen = list(places)
    totals = [math.fsum(probe[place] for place in chosen) for probe in probes]
    if not all(map(math.isfinite, totals)):
        return Trace(math.nan, None)
    return Trace(fmean(totals), stdev(totals) / math.sqrt(len(totals)) if len(totals) > 1 else None)
