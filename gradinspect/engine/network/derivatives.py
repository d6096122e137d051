"""Derivatives with respect to parameters, each of which may be several tensor objects that share memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any  # autograd contexts have no stubs

import torch

from gradinspect.engine.network.parameters import ParameterEntry


class _Along(torch.autograd.Function):
    """A scalar whose derivative with respect to each tensor is a chosen vector.

    Replaces `grad_outputs`, whose shape check makes torch import a computer algebra system.
    """

    @staticmethod
    def forward(ctx: Any, along: Sequence[torch.Tensor], *of: torch.Tensor) -> torch.Tensor:
        """Return zero; only the derivative matters."""
        ctx.along = along
        return of[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _one: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the vectors."""
        return (None, *ctx.along)


def _scalar(of: Sequence[torch.Tensor], along: Sequence[torch.Tensor]) -> torch.Tensor:
    with torch.enable_grad():
        scalar: torch.Tensor = _Along.apply(along, *of)  # type: ignore[no-untyped-call]  # untyped in torch
    return scalar


def parameter_gradients(
    of: torch.Tensor | Sequence[torch.Tensor],
    entries: Sequence[ParameterEntry],
    *,
    along: Sequence[torch.Tensor] | None = None,
    create_graph: bool = False,
    retain_graph: bool = False,
) -> list[torch.Tensor | None]:
    """Compute ∂⟨along, of⟩/∂θ for each entry; None where the graph does not reach the entry.

    Args:
        of: a scalar, or tensors.
        entries: trained parameters.
        along: vectors of the shapes and dtypes of `of`; None for a scalar.
        create_graph: record the computation, to differentiate it again.
        retain_graph: keep the graph for another pass.
    """
    members = [member for entry in entries for member in entry.members if member.requires_grad]
    scalar = of if isinstance(of, torch.Tensor) else _scalar(of, along or ())
    of_members = torch.autograd.grad(
        scalar, members, create_graph=create_graph, retain_graph=retain_graph or create_graph, allow_unused=True
    )
    gradients: list[torch.Tensor | None] = []
    remaining = iter(of_members)
    for entry in entries:
        total: torch.Tensor | None = None
        for _ in range(_count_trained(entry)):
            part = next(remaining)
            if part is not None:
                part = part.to_dense() if part.is_sparse else part
                total = part if total is None else total + part
        gradients.append(total)
    return gradients


def visit_gradients(
    of: Sequence[torch.Tensor],
    entries: Sequence[ParameterEntry],
    *,
    along: Sequence[torch.Tensor],
    take: Callable[[int, torch.Tensor], object],
) -> None:
    """Compute ∂⟨along, of⟩/∂θ entry by entry, with only one of them in memory at a time. The graph is retained.

    Args:
        of: tensors.
        entries: trained parameters.
        along: vectors of the shapes and dtypes of `of`.
        take: called once for each entry, in any order, with its index and its gradient, which is zero where the graph
            does not reach the entry.
    """
    member_counts = [_count_trained(entry) for entry in entries]
    sums: dict[int, torch.Tensor] = {}  # of entries that are several tensor objects
    taken: set[int] = set()

    def note(index: int, gradient: torch.Tensor | None) -> torch.Tensor | None:
        if gradient is None:  # the graph reaches the parameter, but no gradient does
            return None
        part = gradient.to_dense() if gradient.is_sparse else gradient
        if member_counts[index] == 1:
            taken.add(index)
            take(index, part)
        else:
            sums[index] = sums[index] + part if index in sums else part
        # Autograd holds what is returned until the end of the pass: return a tensor without memory of its size.
        return None if gradient.is_sparse else gradient.new_zeros(()).expand(gradient.shape)

    members = [(index, m) for index, entry in enumerate(entries) for m in entry.members if m.requires_grad]
    handles = [member.register_hook(partial(note, index)) for index, member in members]
    try:
        torch.autograd.grad(_scalar(of, along), [member for _, member in members], retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    for index, entry in enumerate(entries):
        if index not in taken:
            take(index, sums.pop(index) if index in sums else torch.zeros_like(entry.tensor))


def _count_trained(entry: ParameterEntry) -> int:
    return sum(member.requires_grad for member in entry.members)
