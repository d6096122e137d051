"""The loss's curvature along each group's gradient and each pair of them: uᵢᵀGuⱼ for unit directions u = g/‖g‖.

One directional derivative of the outputs per group, then products in output space only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gradinspect.engine.arrays.deferred import joint_length
from gradinspect.engine.curvature.gauss_newton import output_direction, output_hessian_product
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import only_tensor, output_of, replaying
from gradinspect.probes.scales.measurement import GroupMeasurement

MAX_BYTES = 2**28  # chosen: what the directions of all groups together may take in output space
MAX_PAIRED = 2048  # groups; chosen: the form then takes 32 MiB, and seconds to solve
_NEGATIVE = 1e-6  # rounding of a float32 product of unit vectors


@dataclass(frozen=True, eq=False)
class GroupCurvature:
    """The Gauss-Newton form between the groups' unit gradients.

    Attributes:
        diagonal: (groups,) float64: uᵢᵀGuᵢ; zero for groups without a gradient.
        form: (groups, groups) float64 with that diagonal; None where pairs were too many or too large to measure.
        is_convex: no direction has negative curvature. A loss that is not convex in the output can have it, and the
            methods that divide by the form then have no meaning.
    """

    diagonal: torch.Tensor
    form: torch.Tensor | None
    is_convex: bool

    def is_known(self, index: int) -> bool:
        """Check that there is curvature to divide by: more than the smallest normal float32."""
        return float(self.diagonal[index]) > torch.finfo(torch.float32).tiny


def measure_curvature(s: SectionInput, measured: Sequence[GroupMeasurement]) -> GroupCurvature:
    """Measure the form at the model's present weights.

    Cost: one forward pass in forward mode a group (or two bare ones), one bare forward pass, and a product with the
    loss's Hessian a group; memory of one output a group while that stays under `MAX_BYTES`, else of two outputs.
    """
    with replaying(s), torch.no_grad():
        output = only_tensor(output_of(s))
    count = len(measured)
    is_joint = count <= MAX_PAIRED and count * output.numel() * output.element_size() <= MAX_BYTES
    lengths = torch.zeros(count, dtype=torch.float64)
    diagonal = torch.zeros(count, dtype=torch.float64)
    products = torch.zeros(count, count, dtype=torch.float64) if is_joint else None
    # Rows of unit length in output space, so that no product of two small numbers leaves float32's range.
    directions = output.new_zeros(count if is_joint else 0, output.numel())
    for index, group in enumerate(measured):
        if not group.has_gradient:
            continue
        unit = {e: (g.to_dense() if g.is_sparse else g) / group.grad_norm for e, g in group.gradient.items()}
        along = output_direction(s, unit)
        length = joint_length([along])
        if not length > 0:
            continue
        along = along / length
        bent = output_hessian_product(s, output, along).flatten()
        lengths[index] = length
        diagonal[index] = torch.dot(along.flatten(), bent).double()
        if products is not None:
            directions[index] = along.flatten()
            row = (directions[: index + 1] @ bent).double()
            products[index, : index + 1], products[: index + 1, index] = row, row
    is_convex = bool((diagonal >= -_NEGATIVE * diagonal.abs().max()).all())
    form = products * torch.outer(lengths, lengths) if products is not None else None
    return GroupCurvature(diagonal * lengths**2, form, is_convex)
