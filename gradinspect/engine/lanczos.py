"""The largest eigenvalue of a symmetric matrix that is known by its products.

Source: Lanczos 1950; Golub and Van Loan 2013, "Matrix Computations", section 10.1, with full reorthogonalisation: in
float32 the three-term recurrence alone loses orthogonality within ten steps and then shows eigenvalues twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Product = Callable[[torch.Tensor], torch.Tensor]


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
        product: v → Hv, both flat.
        start: a random vector; a part of the spectrum that is orthogonal to it stays unseen.
        max_products: at least 1.
        go_on: asked before each product but the first, with the number of products so far.

    Cost: one product a step; a basis of one vector of the matrix's size for each step.
    """
    basis = start.new_empty(max_products + 1, start.numel())
    basis[0] = start / torch.linalg.vector_norm(start)
    diagonal: list[float] = []
    beside: list[float] = []
    found = Eigenvalue(0.0, 0.0, 0)
    for step in range(max_products):
        if step and not go_on(step):
            break
        image = product(basis[step])
        diagonal.append(float(torch.dot(image, basis[step])))
        known = basis[: step + 1]
        for _ in range(2):  # "twice is enough" (Parlett): once leaves a part of the rounding error in
            image = image - known.T @ (known @ image)
        length = float(torch.linalg.vector_norm(image))
        found = _ritz(diagonal, beside, length)
        scale = max(abs(entry) for entry in (*diagonal, *beside))
        if (
            found.residual <= tolerance * abs(found.value)
            or length <= _EXHAUSTED * torch.finfo(start.dtype).eps * scale
        ):
            break
        beside.append(length)
        basis[step + 1] = image / length
    return found


_EXHAUSTED = 8.0  # roundings: the basis spans an invariant subspace, and what is left of a product is noise


def _ritz(diagonal: list[float], beside: list[float], length: float) -> Eigenvalue:
    """The largest eigenpair of the tridiagonal matrix; `length` is the next entry beside its diagonal."""
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        off = torch.tensor(beside, dtype=torch.float64)
        matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return Eigenvalue(float(values[-1]), length * abs(float(vectors[-1, -1])), len(diagonal))
