"""The largest eigenvalue of a symmetric matrix that is known by its products.

Source: Lanczos 1950; Golub and Van Loan 2013, "Matrix Computations", section 10.1. In float32 the three-term recurrence
alone loses orthogonality within ten steps. While the vectors are few or small, each new one is held against all before,
and orthogonalised again where the overlap exceeds √eps, which is what full accuracy of the eigenvalues takes (Simon
1984, "The Lanczos algorithm with partial reorthogonalization", theorem 4). Of large vectors only the last two are kept:
lost orthogonality then shows eigenvalues twice, but a Ritz value with a small residual still lies as near to an
eigenvalue, up to roundings of ‖H‖, and the largest one appears no later than without rounding, or few steps later
(Paige 1980, "Accuracy and effectiveness of the Lanczos algorithm for the symmetric eigenproblem", theorem 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

Product = Callable[[torch.Tensor, torch.Tensor], object]

# Up to this size of all vectors together they stay in the cache, where holding against them costs little.
WHOLE_BASIS_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Eigenvalue:
    """The largest Ritz value θ, its residual ‖Hy − θy‖ (an eigenvalue lies within it), and the products it took.

    Both are NaN where not even one product was finite.
    """

    value: float
    residual: float
    products: int


def random_start(size: int, draws: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """A normal vector on the device of `like`, in its precision or in float32: eight bits do not bear a recurrence."""
    dtype = like.dtype if like.dtype is torch.float64 else torch.float32
    return torch.randn(size, generator=draws, dtype=torch.float32).to(like.device, dtype)


def top_eigenvalue(
    product: Product,
    start: torch.Tensor,
    *,
    max_products: int,
    tolerance: float,
    go_on: Callable[[int], bool] = lambda _done: True,
    whole_basis_bytes: int = WHOLE_BASIS_BYTES,
) -> Eigenvalue:
    """Iterate until the residual is under `tolerance`·|θ|, or one of the limits is reached.

    Args:
        product: called with a flat v and a vector that it fills with Hv.
        start: a random vector; a part of the spectrum that is orthogonal to it stays unseen.
        max_products: at least 1.
        go_on: asked before each product but the first, with the number of products so far.
        whole_basis_bytes: up to this size all vectors are kept, and held against; else the last ones.

    Cost: one product a step; three vectors of the matrix's size, or one for each step where all are kept.
    """
    whole = (max_products + 1) * start.numel() * start.element_size() <= whole_basis_bytes
    rows = max_products + 1 if whole else min(3, max_products + 1)
    basis = start.new_empty(rows, start.numel())
    torch.div(start, torch.linalg.vector_norm(start), out=basis[0])
    diagonal: list[float] = []
    beside: list[float] = []
    found = Eigenvalue(math.nan, math.nan, 0)
    for step in range(max_products):
        if step and not go_on(step):
            break
        vector, image = basis[step % rows], basis[(step + 1) % rows]
        product(vector, image)
        diagonal.append(float(torch.dot(image, vector)))
        image.add_(vector, alpha=-diagonal[-1])
        if beside:
            image.add_(basis[(step - 1) % rows], alpha=-beside[-1])
        if whole:
            _orthogonalise(image, basis[: step + 1])
        length = float(torch.linalg.vector_norm(image))
        if not math.isfinite(length):
            break
        found = _ritz(diagonal, beside, length)
        scale = max(abs(entry) for entry in (*diagonal, *beside))
        exhausted = length <= _EXHAUSTED * torch.finfo(start.dtype).eps * scale
        if found.residual <= tolerance * abs(found.value) or exhausted:
            break
        beside.append(length)
        image.div_(length)
    return found


def _orthogonalise(image: torch.Tensor, basis: torch.Tensor) -> None:
    """Take what the recurrence left of the basis out of a product, in place.

    Cost: the basis is read once, and three times more where the recurrence was not enough.
    """
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
