"""The largest eigenvalue of a symmetric matrix from matrix-vector products.

Source: Lanczos 1950; Golub and Van Loan 2013, "Matrix Computations", section 10.1. In float32 the three-term recurrence
alone loses orthogonality within ten steps. While all vectors fit in the cache, each new one is reorthogonalised against
all previous ones where its overlap exceeds √eps, which is enough for full accuracy of the eigenvalues (Simon 1984, "The
Lanczos algorithm with partial reorthogonalization", theorem 4). Of larger vectors only the last two are kept. Lost
orthogonality then duplicates eigenvalues, but a Ritz value with a small residual is still as close to an eigenvalue, up
to roundings of ‖H‖, and the largest one converges at most a few steps later (Paige 1980, "Accuracy and effectiveness of
the Lanczos algorithm for the symmetric eigenproblem", theorem 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

Product = Callable[[torch.Tensor, torch.Tensor], object]

WHOLE_BASIS_BYTES = 16 * 2**20  # vectors of this total size stay in the cache, where reorthogonalising costs little
EXHAUSTED = 8.0  # roundings; below, the basis spans an invariant subspace and the rest of a product is noise


@dataclass(frozen=True)
class Eigenvalue:
    """The largest Ritz value, or NaN where not even the first product was finite.

    Attributes:
        value: θ.
        residual: ‖Hy − θy‖ of the Ritz vector y; an eigenvalue is within it of θ.
        products: number of matrix-vector products.
    """

    value: float
    residual: float
    products: int


def random_start(size: int, draws: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """Draw a normal vector of `size` elements on the device of `like`.

    Its dtype is float64 for a float64 `like`, else float32: half precision is too coarse for the recurrence.
    """
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
    """Iterate until the residual is at most `tolerance`·|θ|, or a limit is reached.

    Args:
        product: called with a flat v and a vector to fill with Hv.
        start: (n,), random; the part of the spectrum orthogonal to it stays unseen.
        max_products: at least 1.
        tolerance: relative to |θ|.
        go_on: called before each product but the first, with the number of products so far; False stops.
        whole_basis_bytes: keep all vectors up to this total size.

    Cost: one product a step; memory for three vectors, or for all of them within `whole_basis_bytes`.

    >>> eigenvalues = torch.tensor([-9.0, 1.0, 4.0], dtype=torch.float64)
    >>> start = torch.ones(3, dtype=torch.float64)
    >>> top = top_eigenvalue(lambda v, out: out.copy_(eigenvalues * v), start, max_products=3, tolerance=1e-6)
    >>> round(top.value, 6), top.products
    (4.0, 3)
    """
    keeps_all = (max_products + 1) * start.numel() * start.element_size() <= whole_basis_bytes
    rows = max_products + 1 if keeps_all else min(3, max_products + 1)
    basis = start.new_empty(rows, start.numel())
    torch.div(start, torch.linalg.vector_norm(start), out=basis[0])
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    top = Eigenvalue(math.nan, math.nan, 0)
    for step in range(max_products):
        if step and not go_on(step):
            break
        vector, image = basis[step % rows], basis[(step + 1) % rows]
        product(vector, image)
        diagonal.append(float(torch.dot(image, vector)))
        image.add_(vector, alpha=-diagonal[-1])
        if off_diagonal:
            image.add_(basis[(step - 1) % rows], alpha=-off_diagonal[-1])
        if keeps_all:
            reorthogonalise(image, basis[: step + 1])
        length = float(torch.linalg.vector_norm(image))
        if not math.isfinite(length):
            break
        top = _ritz(diagonal, off_diagonal, length)
        scale = max(abs(entry) for entry in (*diagonal, *off_diagonal))
        is_exhausted = length <= EXHAUSTED * torch.finfo(start.dtype).eps * scale
        if top.residual <= tolerance * abs(top.value) or is_exhausted:
            break
        off_diagonal.append(length)
        image.div_(length)
    return top


def reorthogonalise(image: torch.Tensor, basis: torch.Tensor) -> None:
    """Subtract the projection on the basis, in place, where it exceeds √eps of the vector.

    Cost: the basis is read once, and three times more where a projection is subtracted.
    """
    limit = torch.finfo(image.dtype).eps ** 0.5 * float(torch.linalg.vector_norm(image))
    overlaps = basis @ image
    if float(overlaps.abs().max()) > limit:
        image.addmv_(basis.T, overlaps, alpha=-1)
        image.addmv_(basis.T, basis @ image, alpha=-1)  # "twice is enough" (Parlett); once leaves rounding in


def _ritz(diagonal: list[float], off_diagonal: list[float], length: float) -> Eigenvalue:
    """Compute the largest eigenpair of the tridiagonal matrix; `length` is its next off-diagonal entry."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if off_diagonal:
        off = torch.tensor(off_diagonal, dtype=torch.float64)
        matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return Eigenvalue(float(values[-1]), length * abs(float(vectors[-1, -1])), len(diagonal))
