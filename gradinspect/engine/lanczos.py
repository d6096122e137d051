"""The largest eigenvalue of a symmetric matrix that is known by its products.

Source: Lanczos 1950; Golub and Van Loan 2013, "Matrix Computations", section 10.1. In float32 the three-term recurrence
alone loses orthogonality within ten steps and then shows eigenvalues twice, so each new vector is held against the
whole basis; it is orthogonalised again where the overlap exceeds √eps, which is what full accuracy of the eigenvalues
takes (Simon 1984, "The Lanczos algorithm with partial reorthogonalization", theorem 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Product = Callable[[torch.Tensor], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Eigenvalue:
    """The largest Ritz value θ, its residual ‖Hy − θy‖ (an eigenvalue lies within it), and the products it took."""

    value: float
    residual: float
    products: int


def top_eigenvalue(
    product: Product,
    start: torch.Tensor,
    *,
    max_products: int,
    tolerance: float,
    go_on: Callable[[int], bool] = lambda _done: True,
) -> Eigenvalue:
    """Iterate until the residual is under `tolerance`·|θ|, or one of the limits is reached.

    Args:
        product: from a flat v to the parts of Hv, which are copied at once: one vector more would be allocated, and its
            pages touched, at every step.
        start: a random vector; a part of the spectrum that is orthogonal to it stays unseen.
        max_products: at least 1.
        go_on: asked before each product but the first, with the number of products so far.

    Cost: one product a step; a basis of one vector of the matrix's size for each step.
    """
    basis = start.new_empty(max_products + 1, start.numel())
    torch.div(start, torch.linalg.vector_norm(start), out=basis[0])
    diagonal: list[float] = []
    beside: list[float] = []
    found = Eigenvalue(0.0, 0.0, 0)
    for step in range(max_products):
        if step and not go_on(step):
            break
        image = basis[step + 1]
        torch.cat([part.reshape(-1) for part in product(basis[step])], out=image)
        diagonal.append(float(torch.dot(image, basis[step])))
        _orthogonalise(image, basis[: step + 1], diagonal[-1], beside[-1] if beside else None)
        length = float(torch.linalg.vector_norm(image))
        found = _ritz(diagonal, beside, length)
        scale = max(abs(entry) for entry in (*diagonal, *beside))
        exhausted = length <= _EXHAUSTED * torch.finfo(start.dtype).eps * scale
        if found.residual <= tolerance * abs(found.value) or exhausted:
            break
        beside.append(length)
        image.div_(length)
    return found


def _orthogonalise(image: torch.Tensor, basis: torch.Tensor, along: float, before: float | None) -> None:
    """Take the components in the basis out of a product, in place.

    Cost: the basis is read once, and three times more where the recurrence was not enough.
    """
    image.add_(basis[-1], alpha=-along)
    if before is not None:
        image.add_(basis[-2], alpha=-before)
    limit = torch.finfo(image.dtype).eps ** 0.5 * float(torch.linalg.vector_norm(image))
    overlaps = basis @ image
    if float(overlaps.abs().max()) > limit:
        image.addmv_(basis.T, overlaps, alpha=-1)
        image.addmv_(basis.T, basis @ image, alpha=-1)  # "twice is enough" (Parlett); once leaves rounding in


_EXHAUSTED = 8.0  # roundings: the basis spans an invariant subspace, and what is left of a product is noise


def _ritz(diagonal: list[float], beside: list[float], length: float) -> Eigenvalue:
    """The largest eigenpair of the tridiagonal matrix; `length` is the next entry beside its diagonal."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        off = torch.tensor(beside, dtype=torch.float64)
        matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return Eigenvalue(float(values[-1]), length * abs(float(vectors[-1, -1])), len(diagonal))
