"""Derivatives with respect to parameters, where one parameter may be several tensor objects over one memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from gradinspect.engine.network.parameters import ParameterEntry


class _Along(torch.autograd.Function):
    """A scalar whose derivative with respect to each tensor is the vector along it.

    What `grad_outputs` is for, without its check of shapes, for which torch imports a computer algebra system.
    """

    @staticmethod
    def forward(ctx: Any, along: Sequence[torch.Tensor], *of: torch.Tensor) -> torch.Tensor:  # Any: torch's context
        ctx.along = along
        return of[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _one: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # Any: likewise
        return (None, *ctx.along)


def _scalar(of: Sequence[torch.Tensor], along: Sequence[torch.Tensor]) -> torch.Tensor:
    with torch.enable_grad():
        scalar: torch.Tensor = _Along.apply(along, *of)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return scalar


def parameter_gradients(
    of: torch.Tensor | Sequence[torch.Tensor],
    entries: Sequence[ParameterEntry],
    *,
    along: Sequence[torch.Tensor] | None = None,
    create_graph: bool = False,
    retain_graph: bool = False,
) -> list[torch.Tensor | None]:
    """∂⟨along, of⟩/∂θ for each entry; None where nothing of the entry is reached.

    Args:
        of: a scalar, or tensors with a vector of the same shapes and dtypes in `along`.
        entries: trained parameters.
    """
    members = [member for entry in entries for member in entry.members if member.requires_grad]
    scalar = of if isinstance(of, torch.Tensor) else _scalar(of, along or ())
    found = torch.autograd.grad(
        scalar, members, create_graph=create_graph, retain_graph=retain_graph or create_graph, allow_unused=True
    )
    gradients: list[torch.Tensor | None] = []
    place = 0
    for entry in entries:
        total: torch.Tensor | None = None
        for _ in (member for member in entry.members if member.requires_grad):
            part, place = found[place], place + 1
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
    """Hand ∂⟨along, of⟩/∂θ over entry by entry, as soon as each is complete: only one of them is alive at a time.

    The graph is kept.

    Args:
        take: called once for each entry, in any order, with its place and its gradient, which is zero where nothing of
            the entry is reached.
    """
    owed = [sum(member.requires_grad for member in entry.members) for entry in entries]
    shared: dict[int, torch.Tensor] = {}  # of entries that are several tensor objects
    taken: set[int] = set()

    def note(place: int, gradient: torch.Tensor | None) -> torch.Tensor | None:
        if gradient is None:  # the graph reaches the parameter, and nothing flows along it
            return None
        part = gradient.to_dense() if gradient.is_sparse else gradient
        if owed[place] == 1:
            taken.add(place)
            take(place, part)
        else:
            shared[place] = shared[place] + part if place in shared else part
        # What autograd keeps as its result then has no memory; a sparse one has little.
        return None if gradient.is_sparse else gradient.new_zeros(()).expand(gradient.shape)

    places = [(place, m) for place, entry in enumerate(entries) for m in entry.members if m.requires_grad]
    handles = [member.register_hook(partial(note, place)) for place, member in places]  # type: ignore[no-untyped-call]  # torch leaves it untyped
    try:
        torch.autograd.grad(_scalar(of, along), [member for _, member in places], retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    for place, entry in enumerate(entries):
        if place not in taken:
            take(place, shared.pop(place) if place in shared else torch.zeros_like(entry.tensor))
