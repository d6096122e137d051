"""Check that second derivatives come from one function: its Hessian is symmetric, uᵀHv = vᵀHu.

Autograd's backward rules are not always derivatives of each other. A product with an asymmetric matrix has no meaning
as a curvature, though it looks like one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradinspect.engine.arrays.deferred import Sum, as_floats, inner_product, joint_length
from gradinspect.engine.curvature.hessian import HessianProducts
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.autocast import HALF

# Largest |uᵀHv − vᵀHu| relative to the products. Chosen: float32 products were seen to differ by 1e-4, products in half
# precision by some hundredths, wrong rules by half.
TOLERANCE, TOLERANCE_LOW = 0.01, 0.2
ROUNDINGS = 1e3  # chosen: products of a loss without curvature were seen to hold a few


@dataclass(frozen=True)
class PairedProduct:
    """What is kept of one product Hv.

    Attributes:
        inner: v_bᵀ(Hv)_b of each entry b.
        crossed: uᵀHv with another vector u.
        square: ‖Hv‖².
    """

    inner: list[float]
    crossed: float
    square: float


def paired_product(
    hessian: HessianProducts, vectors: Sequence[torch.Tensor], other: Sequence[torch.Tensor]
) -> PairedProduct:
    """Multiply v in `vectors` and take its inner products with v and with u in `other`, both entry by entry.

    Cost: one product, and two more inner products than `HessianProducts.inner`.
    """
    sums: list[list[Sum]] = [[] for _ in hessian.everything]

    def take(index: int, part: torch.Tensor) -> None:
        sums[index] = [inner_product(x, part) for x in (vectors[index], other[index], part)]

    hessian.visit(vectors, hessian.everything, take)
    numbers = as_floats([number for row in sums for number in row])
    return PairedProduct(numbers[::3], math.fsum(numbers[1::3]), math.fsum(numbers[2::3]))


def contradiction(s: SectionInput, hessian: HessianProducts, pair: Sequence[PairedProduct]) -> str | None:
    """Return why the Hessian is no second derivative; None where uᵀHv and vᵀHu agree, or were not both measured.

    Args:
        s: the section's input.
        hessian: the products' source.
        pair: Hv with u, and Hu with v, for random signs. A matrix whose antisymmetric part is as large as the matrix
            passes by chance once in a hundred times.
    """
    if len(pair) < 2:
        return None
    difference = abs(pair[0].crossed - pair[1].crossed)
    length = math.sqrt(pair[0].square + pair[1].square)
    if not math.isfinite(difference) or not length > _rounding_length(hessian):
        return None
    is_low = s.settings.precision.compute in HALF or any(entry.tensor.dtype in HALF.values() for entry in s.parameters)
    if difference <= (TOLERANCE_LOW if is_low else TOLERANCE) * length:
        return None
    return (
        f"second derivatives contradict each other: uᵀHv and vᵀHu differ by {difference / length:.2g} of the products' "
        "length. A custom function's backward treats as constant what varies, or torch's own does: of a scripted "
        "weight_norm, of batch and layer normalisation where the model differentiates itself"
    )


def _rounding_length(hessian: HessianProducts) -> float:
    """Return a length below which a product may be rounding only, with ‖slopes‖/‖weights‖ as the size of H."""
    weights = joint_length([entry.tensor.detach() for entry in hessian.entries])
    steepness = joint_length(hessian.slopes) / weights if weights > 0 else 0.0
    return ROUNDINGS * torch.finfo(hessian.slopes[0].dtype).eps * steepness * math.sqrt(hessian.size)
