"""What a probe trains on: the batch in minibatches, and learnable targets where the caller gave none."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.batch import Target, counts_samples, map_tensors
from gradinspect.engine.network.reproducible import generator
from gradinspect.probes.verify.teacher import teacher_target

LARGEST_BATCH = 128  # chosen: the size at which the methods were evaluated
SMALLEST_BATCH = 32
BATCHES_AN_EPOCH = 8  # chosen: fewer, and "data order" would hardly vary between seeds


@dataclass(frozen=True, eq=False)
class ProbeData:
    """The samples of a probe and their minibatches.

    Attributes:
        target: None for losses that take none.
    """

    inputs: tuple[torch.Tensor, ...]
    target: Target
    samples: int
    batch_size: int
    is_synthetic: bool

    def minibatches(self, seed: int, count: int) -> list[torch.Tensor] | None:
        """Draw the indices of the first `count` minibatches of one data order; None where each is the whole batch.

        Every epoch is a new permutation; a remainder that fills no minibatch is left out of its epoch.
        """
        if self.batch_size == self.samples:
            return None
        draws = generator(seed, "probe order")
        batches: list[torch.Tensor] = []
        while len(batches) < count:
            order = torch.randperm(self.samples, generator=draws).to(self.inputs[0].device)
            whole = self.samples // self.batch_size
            batches.extend(order[: whole * self.batch_size].view(whole, self.batch_size))
        return batches[:count]

    def pick(self, rows: torch.Tensor | None) -> tuple[tuple[torch.Tensor, ...], Target]:
        """Select inputs and target of one minibatch."""
        if rows is None:
            return self.inputs, self.target
        target = map_tensors(self.target, lambda tensor: tensor.index_select(0, rows))
        return tuple(x.index_select(0, rows) for x in self.inputs), target


def probe_data(s: SectionInput) -> ProbeData:
    """Cut the batch into minibatches of a power of two, about eight an epoch; below 64 samples it stays whole."""
    samples = s.batch.inputs[0].shape[0]
    target = teacher_target(s) if s.batch.synthetic else s.target
    size = 1 << max(samples // BATCHES_AN_EPOCH, 1).bit_length() - 1
    size = min(max(size, SMALLEST_BATCH), LARGEST_BATCH)
    cuttable = samples >= 2 * size and counts_samples(target, samples)
    return ProbeData(s.batch.inputs, target, samples, size if cuttable else samples, s.batch.synthetic)
