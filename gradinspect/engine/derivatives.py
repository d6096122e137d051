"""Derivatives with respect to parameters, where one parameter may be several tensor objects over one memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradinspect.engine.parameters import ParameterEntry


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
        of: a scalar, or tensors with a vector of the same shapes in `along`.
        entries: trained parameters.
    """
    members = [member for entry in entries for member in entry.members if member.requires_grad]
    found = torch.autograd.grad(
        of, members, grad_outputs=along, create_graph=create_graph, retain_graph=retain_graph or create_graph,
        allow_unused=True,
    )  # fmt: skip
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
