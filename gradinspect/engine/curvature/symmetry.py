"""Whether second derivatives are those of one function: a Hessian is symmetric, uᵀHv = vᵀHu.

Autograd's rules are not always derivatives of each other. A product with such a matrix is no curvature of anything, and
looks like one.
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

# Chosen: float32 products were seen to differ by 1e-4, products of eight bits by some hundredths; wrong rules by half.
MOST, MOST_LOW = 0.01, 0.2
ROUNDINGS = 1e3  # chosen: products of a loss without curvature were seen to hold a few


@dataclass(frozen=True)
class PairedProduct:
    """One product Hv beside another vector u.

    Attributes:
        inner: v_bᵀ(Hv)_b of each entry.
        crossed: uᵀHv.
        square: ‖Hv‖².
    """

    inner: list[float]
    crossed: float
    square: float


def paired_product(
    hessian: HessianProducts, vectors: Sequence[torch.Tensor], other: Sequence[torch.Tensor]
) -> PairedProduct:
    """Hv for v in `vectors`, u in `other`, both entry by entry.

    Cost: one product, and two more inner products than `HessianProducts.inner`.
    """
    sums: list[list[Sum]] = [[] for _ in hessian.everything]

    def take(place: int, part: torch.Tensor) -> None:
        sums[place] = [inner_product(x, part) for x in (vectors[place], other[place], part)]

    hessian.visit(vectors, hessian.everything, take)
    found = as_floats([number for row in sums for number in row])
    return PairedProduct(found[::3], math.fsum(found[1::3]), math.fsum(found[2::3]))


def contradiction(s: SectionInput, hessian: HessianProducts, pair: Sequence[PairedProduct]) -> str | None:
    """Why no figure of the Hessian can be relied on; None where uᵀHv and vᵀHu agree, or were not both measured.

    Args:
        pair: Hv beside u, and Hu beside v, for random signs. A matrix with an antisymmetric part as large as itself
            passes by chance once in a hundred times.
    """
    if len(pair) < 2:
        return None
    difference = abs(pair[0].crossed - pair[1].crossed)
    length = math.sqrt(pair[0].square + pair[1].square)
    if not math.isfinite(difference) or not length > _roundings(hessian):
        return None
    is_low = s.settings.precision.compute in HALF or any(entry.tensor.dtype in HALF.values() for entry in s.parameters)
    if difference <= (MOST_LOW if is_low else MOST) * length:
        return None
    return (
        f"second derivatives contradict each other: uᵀHv and vᵀHu differ by {difference / length:.2g} of the products' "
        "length. A custom function's backward holds as a constant what varies, or torch's own does: of a scripted "
        "weight_norm, of batch and layer normalisation where the model differentiates itself"
    )


def _roundings(hessian: HessianProducts) -> float:
    """A length under which a product may be nothing but roundings: slopes over weights are what H would be."""
    weights = joint_length([entry.tensor.detach() for entry in hessian.entries])
    steepness = joint_length(hessian.slopes) / weights if weights > 0 else 0.0
    return ROUNDINGS * torch.finfo(hessian.slopes[0].dtype).eps * steepness * math.sqrt(hessian.size)
