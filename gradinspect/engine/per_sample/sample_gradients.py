"""Per-sample gradients by differentiating one sample's loss at a time.

Exact for every operation and slow, so it is used only for parameters whose operation has no formula in `formulas`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import only_tensor, output_of, run_model
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.batch import Target, map_tensors
from gradinspect.engine.network.derivatives import parameter_gradients
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.network.reproducible import seeded
from gradinspect.engine.network.swap import swapped

CHUNK_BYTES = 64 * 2**20  # of per-sample gradients in memory at a time
MEAN_TOLERANCE = 1e-3  # relative to one sample's gradient; rounding stays under 1e-5 of it


@dataclass(frozen=True)
class SampleMoments:
    """Moments of the gradients g_n of the samples' losses.

    Attributes:
        mean_square: mean over the samples of ‖g_n‖².
        square_of_mean: ‖mean of g_n‖².
    """

    mean_square: float
    square_of_mean: float


def sample_gradient_moments(
    s: SectionInput, entries: Sequence[ParameterEntry]
) -> dict[ParameterEntry, SampleMoments] | None:
    """Differentiate each sample's loss with respect to these parameters.

    Returns:
        None where no method works.

    Cost: by vmap two passes, with per-sample gradients of `CHUNK_BYTES` at a time; where an operation does not take
    vmap, one pass for each sample alone; where the model takes no single sample, one over the batch for each sample.
    """
    samples = s.batch.inputs[0].shape[0]
    size = sum(entry.tensor.numel() * entry.tensor.element_size() for entry in entries)
    step = min(max(CHUNK_BYTES // max(size, 1), 1), samples)
    for differentiate in (_by_vmap, _one_by_one, _masked):
        sums = _Sums(entries)
        try:
            for start in range(0, samples, step):
                sums.add(differentiate(s, entries, slice(start, min(start + step, samples))))
        except (RuntimeError, ValueError) as error:
            if out_of_memory(error):
                raise
            continue
        moments = sums.moments(samples)
        if all(_has_mean(part, s.reading.gradients[entry].moments.norm) for entry, part in moments.items()):
            return moments
    return None


def _has_mean(part: SampleMoments, batch_norm: float) -> bool:
    """Check that the samples' mean gradient has the batch's norm; it has not where dropout drew other masks."""
    return abs(math.sqrt(part.square_of_mean) - batch_norm) <= MEAN_TOLERANCE * math.sqrt(part.mean_square)


class _Sums:
    def __init__(self, entries: Sequence[ParameterEntry]) -> None:
        self._squares = dict.fromkeys(entries, 0.0)
        self._totals: dict[ParameterEntry, torch.Tensor] = {}

    def add(self, gradients: Mapping[ParameterEntry, torch.Tensor]) -> None:
        for entry, part in gradients.items():
            values = part.detach().double()
            self._squares[entry] += float(values.square().sum())
            total = values.sum(0)
            self._totals[entry] = self._totals[entry] + total if entry in self._totals else total

    def moments(self, samples: int) -> dict[ParameterEntry, SampleMoments]:
        return {
            entry: SampleMoments(self._squares[entry] / samples, float((total / samples).square().sum()))
            for entry, total in self._totals.items()
        }


def _sample_loss(s: SectionInput, inputs: Sequence[torch.Tensor], target: Target) -> torch.Tensor:
    return s.loss_between(run_model(s, inputs), target)


def _by_vmap(s: SectionInput, entries: Sequence[ParameterEntry], part: slice) -> dict[ParameterEntry, torch.Tensor]:
    if s.settings.loss == "random_cotangent":
        raise ValueError("each sample has its own cotangent")
    names = {entry.name: entry for entry in entries}

    def loss(values: Mapping[str, torch.Tensor], inputs: tuple[torch.Tensor, ...], target: Target) -> torch.Tensor:
        with swapped(s.model, {names[name]: value for name, value in values.items()}):
            row = map_tensors(target, lambda tensor: tensor.unsqueeze(0))
            return _sample_loss(s, [tensor.unsqueeze(0) for tensor in inputs], row)

    differentiate: Callable[..., Mapping[str, torch.Tensor]] = torch.func.vmap(
        torch.func.grad(loss), in_dims=(None, 0, 0 if s.target is not None else None), randomness="different"
    )
    values = {name: entry.tensor.detach() for name, entry in names.items()}
    target = map_tensors(s.target, lambda tensor: tensor[part])
    with seeded(s.seed, s.device), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # operations without a batching rule are slow, and correct
        gradients = differentiate(values, tuple(tensor[part] for tensor in s.batch.inputs), target)
    return {names[name]: gradient for name, gradient in gradients.items()}


def _one_by_one(s: SectionInput, entries: Sequence[ParameterEntry], part: slice) -> dict[ParameterEntry, torch.Tensor]:
    if s.settings.loss == "random_cotangent":
        raise ValueError("each sample has its own cotangent")

    def gradients(index: int) -> list[torch.Tensor | None]:
        target = map_tensors(s.target, lambda tensor: tensor[index : index + 1])
        with seeded(s.seed, s.device):
            loss = _sample_loss(s, [tensor[index : index + 1] for tensor in s.batch.inputs], target)
        return parameter_gradients(loss, entries)

    return _stacked(entries, [gradients(index) for index in range(part.start, part.stop)])


def _masked(s: SectionInput, entries: Sequence[ParameterEntry], part: slice) -> dict[ParameterEntry, torch.Tensor]:
    """Go backwards through the whole batch's graph with the loss's slope of one sample at a time."""
    output = only_tensor(output_of(s))
    samples = output.shape[0]
    point = output.detach().requires_grad_()
    (slope,) = torch.autograd.grad(s.loss_of(point), point)

    def gradients(index: int) -> list[torch.Tensor | None]:
        cotangent = torch.zeros_like(slope)
        cotangent[index] = slope[index] * samples
        return parameter_gradients([output], entries, along=[cotangent], retain_graph=True)

    return _stacked(entries, [gradients(index) for index in range(part.start, part.stop)])


def _stacked(
    entries: Sequence[ParameterEntry], rows: Sequence[Sequence[torch.Tensor | None]]
) -> dict[ParameterEntry, torch.Tensor]:
    def filled(index: int, entry: ParameterEntry) -> torch.Tensor:
        parts = [row[index] for row in rows]
        return torch.stack([torch.zeros_like(entry.tensor) if part is None else part for part in parts])

    return {entry: filled(index, entry) for index, entry in enumerate(entries)}
