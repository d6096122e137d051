"""The trained parameters of a model and one training step: the same step for probes, trials and prescriptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from gradinspect.engine.network.optimizers import Tensors, Update, UpdateState
from gradinspect.engine.network.parameters import ParameterEntry

ONE_THREAD = 2**26  # multiplications a step; chosen: for steps under some 10 ms, threads cost more than they save


class TrainedParameters:
    """The parameters that training moves, one tensor each; in TorchScript a tied one may be several objects.

    Args:
        entries: parameters, at least one member of each trained.
    """

    def __init__(self, entries: Sequence[ParameterEntry]) -> None:
        members = [[member for member in entry.members if member.requires_grad] for entry in entries]
        self.tensors = [each[0] for each in members]
        self._counts = [len(each) for each in members]
        self._members = [member for each in members for member in each]
        self._is_plain = len(self._members) == len(self.tensors)

    def step(self, loss: torch.Tensor, update: Update, rates: Sequence[float], state: UpdateState) -> None:
        """Differentiate a loss and move the parameters in place; their `grad` is neither read nor written.

        Args:
            loss: a scalar with a graph, which is freed.
            update: of an optimizer.
            rates: one learning rate a parameter.
            state: of the optimizer, changed in place.
        """
        gradients = self.gradients(loss)
        with torch.no_grad():
            update(_real(self.tensors), _real(gradients), rates, state)

    def gradients(self, loss: torch.Tensor) -> Tensors:
        """Return one dense gradient per parameter: zero where there is none, the sum where it is several objects."""
        dense = [
            torch.zeros_like(member) if g is None else g.to_dense() if g.is_sparse else g
            for g, member in zip(
                torch.autograd.grad(loss, self._members, allow_unused=True), self._members, strict=True
            )
        ]
        if self._is_plain:
            return dense
        parts = iter(dense)
        return [torch.stack([next(parts) for _ in range(count)]).sum(0) for count in self._counts]


@contextmanager
def suitable_threads(multiplications: int) -> Iterator[None]:
    """Compute small steps on one thread, for the block.

    Args:
        multiplications: of one step, about: parameters times samples.
    """
    threads = torch.get_num_threads()
    if multiplications < ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _real(tensors: Tensors) -> Tensors:
    """View complex tensors as pairs of real numbers, as `torch.optim` does."""
    return [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in tensors]
