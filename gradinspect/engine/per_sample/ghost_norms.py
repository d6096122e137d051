"""Norms of per-sample gradients without the gradients.

‖Σ_p δ_p x_pᵀ‖² = Σ_pq ⟨δ_p, δ_q⟩⟨x_p, x_q⟩ costs positions², the gradient itself outputs × inputs; each layer uses the
cheaper. Source: Goodfellow 2015, "Efficient per-example gradient computations", for one position; Li et al. 2022,
"Large language models can be strong differentially private learners", section 4, for several; Bu, Mao and Xu 2022,
"Scalable and efficient training of large convolutional neural networks with differential privacy", for the choice.

Callers pass float64 where products would overflow or underflow float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gradinspect.engine.per_sample.formulas.factors import Factor, Lookups, Products, Vectors
from gradinspect.engine.per_sample.parameter_uses import Use, saved_by
from gradinspect.engine.per_sample.sample_layout import Layout

CHUNK_ELEMENTS = 4 * 2**20  # of temporaries at a time; 16 MiB of float32 about fit the last-level cache


def squared_norms(factors: Sequence[Factor]) -> torch.Tensor | None:
    """Compute ‖g_n‖² of the sum of all factors of one parameter or part: (samples,), float64.

    None for combinations that no model was seen to make (a table used as a bias, for example).

    For one position the norm of an outer product is the product of the norms, here 5·13:

    >>> delta, x = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[5.0, 12.0]]]])
    >>> squared_norms([Products(delta.__getitem__, x.__getitem__, (1, 1, 1, 2, 2))]).sqrt()
    tensor([65.], dtype=torch.float64)
    """
    products = [factor for factor in factors if isinstance(factor, Products)]
    lookups = [factor for factor in factors if isinstance(factor, Lookups)]
    vectors = [factor for factor in factors if isinstance(factor, Vectors)]
    if vectors:
        if products or lookups:
            return None
        total = vectors[0].values
        for other in vectors[1:]:
            total = total + other.values
        return _squares(total)
    dense = _joined(products) if products else None
    table = _joined_lookups(lookups) if lookups else None
    if products and dense is None:
        return None
    if dense is None:
        return _lookup_squares(table) if table is not None else None
    result = _product_squares(dense)
    if table is not None:
        result = result + _lookup_squares(table) + 2 * _cross(dense, table)
    return result


def is_row_product(uses: Sequence[Use], signal: torch.Tensor, layout: object) -> bool:
    """Check for a product with a weight in which each sample is one row, as in most small networks."""
    return (
        bool(uses)
        and uses[0].node.name() == "AddmmBackward0"
        and layout == Layout(1, signal.shape[0], signal.shape[-1])
        and signal.dim() == 2
        and all(use.slot == 2 or (use.slot == 0 and math.prod(use.shape) == signal.shape[1]) for use in uses)
        and signal.dtype in (torch.float32, torch.float64)
    )


def row_product_squares(uses: Sequence[Use], signal: torch.Tensor) -> dict[Use, torch.Tensor]:
    """Compute ‖g_n‖² of the weight and the bias of a row product: ‖δ_n‖²·‖x_n‖² and ‖δ_n‖²."""
    saved = saved_by(uses[0].node)
    rows = _squares(signal)
    return {
        use: rows * _squares(saved._saved_mat1.to(signal.dtype)) * float(saved._saved_alpha) ** 2
        if use.slot == 2
        else rows * float(saved._saved_beta) ** 2
        for use in uses
    }


def _squares(rows: torch.Tensor) -> torch.Tensor:
    """Sum the squares of each row: (rows, …) → (rows,), float64."""
    norms: torch.Tensor = torch.linalg.vector_norm(rows.reshape(rows.shape[0], -1), dim=1)
    return norms.double().square_()


def _joined(products: list[Products]) -> Products | None:
    """Join the positions of all uses, which are time steps of a recurrent layer or calls of a shared one."""
    if len(products) == 1:
        return products[0]
    shapes = {(samples, groups, outputs, inputs) for samples, groups, _, outputs, inputs in (p.sizes for p in products)}
    if len(shapes) != 1:
        return None
    samples, groups, outputs, inputs = shapes.pop()
    positions = sum(product.sizes[2] for product in products)
    return Products(
        lambda part: torch.cat([product.left(part) for product in products], 2),
        lambda part: torch.cat([product.right(part) for product in products], 2),
        (samples, groups, positions, outputs, inputs),
    )


def _product_squares(factor: Products) -> torch.Tensor:
    samples, groups, positions, outputs, inputs = factor.sizes
    everything = slice(0, samples)
    if positions == 1:
        left, right = (side(everything).reshape(samples * groups, -1) for side in (factor.left, factor.right))
        return (_squares(left) * _squares(right)).reshape(samples, groups).sum(1)
    by_gram = positions * (outputs + inputs) < outputs * inputs
    temporary = groups * (2 * positions**2 if by_gram else outputs * inputs) + groups * positions * inputs
    step = max(CHUNK_ELEMENTS // max(temporary, 1), 1)
    parts = [slice(start, min(start + step, samples)) for start in range(0, samples, step)]
    reduce = _gram_squares if by_gram else _direct_squares
    return torch.cat([reduce(factor.left(part), factor.right(part)) for part in parts])


def _gram_squares(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Sum ⟨δ_p, δ_q⟩⟨x_p, x_q⟩: two of (samples, groups, positions, …) → (samples,)."""
    a, b = left.flatten(0, 1), right.flatten(0, 1)
    grams = torch.bmm(a, a.transpose(1, 2)).flatten(1)
    total: torch.Tensor = torch.linalg.vecdot(grams, torch.bmm(b, b.transpose(1, 2)).flatten(1)).double()
    return total.reshape(left.shape[:2]).sum(1).clamp(min=0)


def _direct_squares(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Square the per-sample gradients themselves: the same shapes as for `_gram_squares`."""
    gradients = torch.bmm(left.flatten(0, 1).transpose(1, 2), right.flatten(0, 1))
    return _squares(gradients).reshape(left.shape[:2]).sum(1)


def _joined_lookups(lookups: list[Lookups]) -> Lookups:
    if len(lookups) == 1:
        return lookups[0]
    return Lookups(torch.cat([each.indices for each in lookups], 1), torch.cat([each.values for each in lookups], 1))


def _lookup_squares(table: Lookups) -> torch.Tensor:
    """Square the gradient of a table, summing first what one sample adds to the same row."""
    samples, _, width = table.values.shape
    rows = int(table.indices.max()) + 2 if table.indices.numel() else 1
    keys = table.indices + 1 + rows * torch.arange(samples, device=table.indices.device).unsqueeze(1)
    distinct, inverse = torch.unique(keys.reshape(-1), return_inverse=True)
    sums = table.values.new_zeros(distinct.numel(), width).index_add_(0, inverse, table.values.reshape(-1, width))
    sums[distinct % rows == 0] = 0  # positions that add nothing
    squares = _squares(sums)
    return squares.new_zeros(samples).index_add_(0, distinct // rows, squares)


def _cross(dense: Products, table: Lookups) -> torch.Tensor:
    """Compute ⟨Σ_p δ_p x_pᵀ, Σ_q e_{i_q} v_qᵀ⟩ = Σ_pq δ_p[i_q]·⟨x_p, v_q⟩, for a tied embedding and head."""
    samples, _, positions, _, _ = dense.sizes
    step = max(CHUNK_ELEMENTS // max(2 * positions * table.indices.shape[1], 1), 1)
    totals = []
    for start in range(0, samples, step):
        part = slice(start, min(start + step, samples))
        left, right = dense.left(part)[:, 0], dense.right(part)[:, 0]
        indices = table.indices[part]
        picked = left.gather(2, indices.clamp(min=0).unsqueeze(1).expand(-1, positions, -1))
        picked = picked * (indices >= 0).unsqueeze(1)
        inner = torch.bmm(right, table.values[part].transpose(1, 2))
        totals.append(torch.linalg.vecdot(picked.flatten(1), inner.flatten(1)).double())
    return torch.cat(totals)
