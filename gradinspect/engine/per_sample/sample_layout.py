"""Which elements of a backward signal belong to which sample, found by experiment.

A cotangent that is zero for some samples of the output is sent backwards. Where samples do not mix, the signal is then
exactly zero on those samples' elements, wherever the model put its sample axis: first, second after a
transpose, or folded into rows with time. Where no arrangement fits, the operation lies below one that mixes samples
(batch normalisation in training mode, attention over the batch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Layout:
    """A tensor's elements as (outer, samples, inner), in its flattened order."""

    outer: int
    samples: int
    inner: int


MIXED = "mixed"  # a sample's elements got a signal from others
SILENT = "silent"  # nothing arrived
UNPLACED = "unplaced"  # no axis can hold the samples: a weight computed from parameters alone, for example
Verdict = Layout | str


@dataclass(frozen=True)
class Evidence:
    """For each arrangement that a tensor's shape allows, which samples were touched under it.

    Kept on the tensor's device until all of them are read at once.
    """

    candidates: tuple[Layout, ...]
    touched: torch.Tensor  # (candidates, samples), bool


def chosen_samples(samples: int, draws: torch.Generator) -> torch.Tensor:
    """About half of the samples, never none and never all of them; (samples,) bool."""
    chosen = torch.zeros(samples, dtype=torch.bool)
    chosen[torch.randperm(samples, generator=draws)[: max(samples // 2, 1)]] = True
    return chosen


def gather_evidence(signal: torch.Tensor, samples: int) -> Evidence | None:
    """Look where a signal is not zero; None where no axis of it can hold the samples.

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
    return Evidence(tuple(candidates), torch.stack(touched))


def read_layouts(evidence: Sequence[Evidence | None], chosen: torch.Tensor) -> list[Verdict]:
    """Decide for each signal: its layout, or why it has none.

    With K rows that carry a signal, a wrong arrangement passes with a probability of about 2^−K.
    """
    present = [item for item in evidence if item is not None]
    if not present:
        return [UNPLACED] * len(evidence)
    flat = torch.cat([item.touched for item in present]).cpu()  # the one transfer
    outside = (flat & ~chosen).any(1).tolist()
    inside = (flat & chosen).any(1).tolist()
    verdicts: list[Verdict] = []
    start = 0
    for item in evidence:
        if item is None:
            verdicts.append(UNPLACED)
            continue
        places = range(start, start + len(item.candidates))
        start += len(item.candidates)
        fitting = [item.candidates[place - places[0]] for place in places if inside[place] and not outside[place]]
        if fitting:
            verdicts.append(fitting[0])
        else:
            silent = not any(inside[place] or outside[place] for place in places)
            verdicts.append(SILENT if silent else MIXED)
    return verdicts
