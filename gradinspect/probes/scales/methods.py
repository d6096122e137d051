"""The methods that give each group of parameters its scale from the group's own numbers; raw, each in its own unit.

Measured worth of each: its loss over uniform's, geometric mean over the 25 networks of benchmarks/scales_study.
`joint_newton`, which needs the groups' interactions, has its own module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradinspect.probes.scales.curvature import GroupCurvature
from gradinspect.probes.scales.measurement import GroupMeasurement


def uniform(measured: Sequence[GroupMeasurement]) -> list[float | None]:
    """Return 1 for every group: the arm that every other method has to beat."""
    return [1.0 for _ in measured]


def newton(measured: Sequence[GroupMeasurement], curvature: GroupCurvature) -> list[float | None]:
    """Return √(gᵀg / gᵀGg), the square root of each layer's own Newton step along its gradient.

    G is the Gauss-Newton matrix restricted to the layer. The whole Newton step overshoots, because a layer's curvature
    holds only while the others stay as they are; the square root was measured to help.
    Source: LeCun et al. 1998, "Efficient backprop", section 9, has a rate per unit from the diagonal of the
    Gauss-Newton matrix; here it is one per layer, along the gradient. Worth: 0.70 under SGD, 0.79 with momentum.

    Returns:
        None for groups without a gradient, or without curvature along it.
    """
    return [
        1.0 / math.sqrt(float(curvature.diagonal[index])) if m.has_gradient and curvature.is_known(index) else None
        for index, m in enumerate(measured)
    ]


def trust_ratio(measured: Sequence[GroupMeasurement]) -> list[float | None]:
    """Return ‖w‖/‖g‖, so that every layer moves by the same share of its weights.

    Source: You, Gitman and Ginsburg 2017, "Large batch training of convolutional networks" (LARS), eq. 6, taken once
    instead of at each step. Worth: 0.70 under SGD, 0.82 with momentum.

    Returns:
        None for groups whose gradient or weight is zero.
    """
    return [m.weight_norm / m.grad_norm if m.has_gradient and m.weight_norm > 0 else None for m in measured]


def equalize(measured: Sequence[GroupMeasurement]) -> list[float | None]:
    """Return 1/RMS(g), so that an element moves equally far in every layer.

    Source: Glorot and Bengio 2010 name unequal gradients across layers as the difficulty; this step size removes it.
    Worth: 0.73 under SGD, 0.82 with momentum.

    Returns:
        None for groups without a gradient.
    """
    return [1.0 / m.grad_rms if m.has_gradient else None for m in measured]
