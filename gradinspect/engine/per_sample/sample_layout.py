"""Which elements of a backward signal belong to which sample, read from an experiment.

A cotangent that is zero for some samples of the output is sent backwards. Where samples do not mix, the signal is then
exactly zero on those samples' elements, wherever the sample axis is: first, second after a transpose, or folded into
rows with time. Where no layout fits, the operation is below one that mixes samples (batch normalisation in training
mode, attention over the batch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Layout:
    """A tensor's elements in flattened order, as (outer, samples, inner)."""

    outer: int
    samples: int
    inner: int


MIXED = "mixed"  # a sample's elements got a signal from other samples
SILENT = "silent"  # the signal is zero
UNPLACED = "unplaced"  # no axis can count samples: a weight computed from parameters alone, for example
LayoutResult = Layout | str


@dataclass(frozen=True)
class LayoutEvidence:
    """Which samples have a signal, for each layout that a tensor's shape allows.

    Attributes:
        candidates: the layouts.
        touched: (candidates, samples), bool, on the signal's device: all of a pass are read in one transfer.
    """

    candidates: tuple[Layout, ...]
    touched: torch.Tensor


def chosen_samples(samples: int, draws: torch.Generator) -> torch.Tensor:
    """Draw about half of the samples, at least one and never all of two or more: (samples,), bool."""
    chosen = torch.zeros(samples, dtype=torch.bool)
    chosen[torch.randperm(samples, generator=draws)[: max(samples // 2, 1)]] = True
    return chosen


def gather_evidence(signal: torch.Tensor, samples: int) -> LayoutEvidence | None:
    """Record where a signal is not zero; None where no axis can count the samples.

    Cost: one element-wise pass, and reductions of its result.
    """
    shape = tuple(signal.shape)
    axes = [axis for axis, size in enumerate(shape) if size % samples == 0 and size]
    if len(shape) > 1 and len(axes) > 1 and axes[-1] == len(shape) - 1:
        axes.pop()  # features, or positions of a convolution
    if not axes:
        return None
    last = axes[-1]
    features = math.prod(shape[last + 1 :])
    on = (signal.detach() != 0).reshape(-1, features).any(1) if features > 1 else signal.detach().reshape(-1) != 0
    candidates, touched = [], []
    for axis in axes:
        outer = math.prod(shape[:axis])
        inner = math.prod(shape[axis + 1 : last + 1])
        folded = shape[axis] // samples
        for part in sorted((part for part in range(1, folded + 1) if folded % part == 0), reverse=True):
            layout = Layout(outer * (folded // part), samples, part * inner)
            candidates.append(Layout(layout.outer, samples, layout.inner * features))
            touched.append(on.reshape(layout.outer, samples, layout.inner).any(2).any(0))
    return LayoutEvidence(tuple(candidates), torch.stack(touched))


def read_layouts(evidence: Sequence[LayoutEvidence | None], chosen: torch.Tensor) -> list[LayoutResult]:
    """Decide on each signal's layout, or why it has none.

    With K rows that are not zero, a wrong layout passes with a probability of about 2^−K.

    Args:
        evidence: one entry for each signal; None where no axis can count the samples.
        chosen: (samples,), bool: the samples whose cotangent was not zero.

    >>> signal = torch.tensor([[1.0, 2.0], [0.0, 0.0]])  # the second sample's cotangent was zero
    >>> read_layouts([gather_evidence(signal, 2)], torch.tensor([True, False]))
    [Layout(outer=1, samples=2, inner=2)]
    """
    present = [item for item in evidence if item is not None]
    if not present:
        return [UNPLACED] * len(evidence)
    flat = torch.cat([item.touched for item in present]).cpu()  # the one transfer
    outside = (flat & ~chosen).any(1).tolist()
    inside = (flat & chosen).any(1).tolist()
    results: list[LayoutResult] = []
    start = 0
    for item in evidence:
        if item is None:
            results.append(UNPLACED)
            continue
        rows = range(start, start + len(item.candidates))
        start += len(item.candidates)
        fitting = [item.candidates[row - rows[0]] for row in rows if inside[row] and not outside[row]]
        if fitting:
            results.append(fitting[0])
        else:
            is_silent = not any(inside[row] or outside[row] for row in rows)
            results.append(SILENT if is_silent else MIXED)
    return results
