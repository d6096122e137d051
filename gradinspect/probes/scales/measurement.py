"""Gradient and weight of each group, measured over parts of the batch: one backward pass over all samples in all.

The parts give each norm's coefficient of variation at no extra cost: their mean is the batch's gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from gradinspect.engine.arrays.deferred import lengths
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import replaying, run_model
from gradinspect.engine.network.batch import counts_samples, map_tensors
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.network.reproducible import seeded
from gradinspect.probes.scales.groups import ParameterGroup

PARTS = 4
SAMPLES_A_PART = 32  # chosen: four parts are then the 128 samples from which the methods' worth was measured

Gradients = Mapping[ParameterEntry, torch.Tensor]


@dataclass(frozen=True, eq=False)
class GroupMeasurement:
    """The numbers of one group that the methods read.

    Attributes:
        gradient: entries to dense or sparse gradients; entries without a gradient are left out.
        grad_norm: l2, over the touched rows where rows are looked up (the others are exactly zero).
        grad_rms: per element of those rows.
        weight_norm: l2 of the same rows.
        cv: coefficient of variation of the gradient's norm over the parts; None from a single part.
        broken_weight: name of the first parameter with a value that is not finite.
        broken_gradient: the same of gradients.
    """

    group: ParameterGroup
    gradient: Gradients
    grad_norm: float
    grad_rms: float
    weight_norm: float
    cv: float | None = None
    broken_weight: str | None = None
    broken_gradient: str | None = None

    @property
    def has_gradient(self) -> bool:
        """Return False where the gradient is exactly zero, or the parameters are unused."""
        return self.grad_norm > 0


def measure_groups(s: SectionInput, groups: Sequence[ParameterGroup]) -> list[GroupMeasurement]:
    """Measure every group at the model's present weights.

    Cost: one forward and one backward pass over the batch, in up to four parts; one gradient of the model's size, and
    a second one while parts are added.
    """
    samples = s.batch.inputs[0].shape[0]
    parts = max(1, min(PARTS, samples // SAMPLES_A_PART, len(groups)))
    parts = parts if counts_samples(s.target, samples) else 1
    bounds = [(i * samples // parts, (i + 1) * samples // parts) for i in range(parts)]
    total: dict[ParameterEntry, torch.Tensor] = {}
    norms: list[list[float]] = [[] for _ in groups]
    with replaying(s):
        for start, end in bounds:
            gradients = _gradients(s, groups, start, end, whole=len(bounds) == 1)
            length_of = dict(zip(gradients, lengths(list(gradients.values())), strict=True))
            for index, group in enumerate(groups):
                norms[index].append(math.hypot(*(length_of[e] for e in group.entries if e in length_of)))
            for entry, gradient in gradients.items():
                share = gradient * ((end - start) / samples) if len(bounds) > 1 else gradient
                total[entry] = total[entry] + share if entry in total else share
    return [_measurement(group, total, norms[index]) for index, group in enumerate(groups)]


def _gradients(
    s: SectionInput, groups: Sequence[ParameterGroup], start: int, end: int, *, whole: bool
) -> dict[ParameterEntry, torch.Tensor]:
    entries = [entry for group in groups for entry in group.entries]
    members = [member for entry in entries for member in entry.members if member.requires_grad]
    with torch.enable_grad(), seeded(s.seed, s.device):
        if whole:
            loss = s.loss_of(run_model(s, s.batch.inputs))
        else:
            target = map_tensors(s.target, lambda tensor: tensor[start:end])
            loss = s.loss_between(run_model(s, [x[start:end] for x in s.batch.inputs]), target)
        gradients = torch.autograd.grad(loss, members, allow_unused=True)
    gradient_of = {id(member): gradient for member, gradient in zip(members, gradients, strict=True)}
    summed: dict[ParameterEntry, torch.Tensor] = {}
    for entry in entries:
        parts = [g for member in entry.members if (g := gradient_of.get(id(member))) is not None]
        if parts:
            summed[entry] = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
    return summed


def _measurement(group: ParameterGroup, total: Gradients, norms: Sequence[float]) -> GroupMeasurement:
    gradient = {entry: total[entry] for entry in group.entries if entry in total}
    weights = [_used_part(entry, group, gradient) for entry in group.entries]
    norms_l2 = lengths([*weights, *gradient.values()])
    weight_of = dict(zip(group.entries, norms_l2[: len(weights)], strict=True))
    gradient_of = dict(zip(gradient, norms_l2[len(weights) :], strict=True))
    grad_norm = math.hypot(*gradient_of.values())
    numel = sum(part.numel() for entry, part in zip(group.entries, weights, strict=True) if entry in gradient)
    return GroupMeasurement(
        group=group,
        gradient=gradient,
        grad_norm=grad_norm,
        grad_rms=grad_norm / math.sqrt(numel) if numel else 0.0,
        weight_norm=math.hypot(*weight_of.values()),
        cv=variation(norms),
        broken_weight=_first_broken(weight_of),
        broken_gradient=_first_broken(gradient_of),
    )


def _used_part(entry: ParameterEntry, group: ParameterGroup, gradient: Gradients) -> torch.Tensor:
    weight = entry.tensor.detach()
    return weight[_touched_rows(gradient[entry])] if entry in group.looked_up and entry in gradient else weight


def _first_broken(length_of: Mapping[ParameterEntry, float]) -> str | None:
    return next((entry.name for entry, length in length_of.items() if not math.isfinite(length)), None)


def _touched_rows(gradient: torch.Tensor) -> torch.Tensor:
    """Return the indices of the rows that the batch read: those whose gradient is not zero throughout."""
    if gradient.is_sparse:
        rows: torch.Tensor = torch.unique(gradient.coalesce().indices()[0])
        return rows
    return gradient.reshape(gradient.shape[0], -1).ne(0).any(dim=1).nonzero().flatten()


def variation(values: Sequence[float]) -> float | None:
    """Return the coefficient of variation; None for fewer than two values, without a mean, or where one is infinite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance) / mean if mean > 0 else None
