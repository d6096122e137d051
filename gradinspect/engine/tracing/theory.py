"""Mean-field prediction of the backward gain, from the measured weights and pre-activations.

Source: Schoenholz et al. 2017, "Deep information propagation", eq. 10: χ1 = σ_w² ∫ Dz φ′(√q z)², with
σ_w² = fan_in·Var W. With σ_w² defined over the fan-in, χ1 is the expected ratio of *squared norms*
‖δ_l‖² / ‖δ_{l+1}‖² whatever the two widths are: each unit of layer l collects Var W·‖δ_{l+1}‖², and there are
fan_in of them. Only the per-element (rms) ratio carries the width factor n_{l+1}/n_l.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from gradinspect.engine.arrays.host_arrays import flat_array
from gradinspect.engine.arrays.statistics import MeanAndRms, mean_and_rms
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.tracing.activations import Activation
from gradinspect.engine.tracing.calls import ActivationCall, LayerCall
from gradinspect.engine.tracing.operator_names import ATEN_AFFINE

_NODES = 4096  # equal-probability nodes of N(0, 1); even, so that a step at 0 is halved exactly


def mean_squared_slope(call: ActivationCall, q: float) -> float | None:
    """Integrate E[φ′(√q Z)²] for Z ~ N(0, 1).

    By a 4,096-point rule; relative error under 1e-3 for the smooth φ of torch.

    Args:
        q: mean square of the pre-activations.

    Returns:
        None for a nonlinearity with tensors among its arguments (PReLU's slopes, RReLU's noise), and for one whose φ′
        is not known as a function.
    """
    activation = call.activation
    if activation is None or activation.kernel is None or activation.facts.has_tensor_argument:
        return None
    name = call.operation.removesuffix("_")
    scalars = tuple(call.arguments[1:])
    if activation.facts.is_positively_homogeneous:
        q = 1.0  # the slope does not depend on the scale, so one integral serves all layers
    return _integral(activation, name, scalars, tuple(sorted(call.keywords.items())), q)


def weight_variance(call: LayerCall, weights: Mapping[ParameterEntry, MeanAndRms] | None = None) -> float | None:
    """Compute σ_w² = fan_in·Var W of an affine call, with the fan-in of one output unit.

    None for other calls, and where the parameter is not itself the weight (weight norm, a mask, a scale).

    Args:
        weights: readings of the parameters; without them the weight is read.
    """
    if call.operation not in ATEN_AFFINE or call.has_computed_weight:
        return None
    matrices = [entry for entry in call.entries if entry.tensor.dim() >= 2]
    if len(matrices) != 1 or not matrices[0].tensor.numel() or matrices[0].tensor.is_complex():
        return None
    fan_in = mean_fan_in(call, matrices[0].tensor)
    values = weights[matrices[0]] if weights is not None else mean_and_rms(matrices[0].tensor)
    return None if fan_in is None else fan_in * values.std**2


def mean_fan_in(call: LayerCall, weight: torch.Tensor) -> float | None:
    """Count the inputs that an output element of an affine call sums up, on average.

    For a convolution, taps on padding do not count; a transposed one reaches an output only from every stride-th tap.
    """
    if "conv" not in call.operation:
        units = call.output_shape[-1]
        return weight.numel() / units if units and weight.numel() % units == 0 else None
    if call.operation not in ("convolution", "_convolution") or len(call.arguments) < 9 or call.input_shape is None:
        return None
    stride, padding, dilation, transposed = call.arguments[3:7]
    groups: int = call.arguments[8]
    taps = 1.0
    for axis, kernel in enumerate(weight.shape[2:]):
        inside, outside = call.input_shape[2 + axis], call.output_shape[2 + axis]
        if not outside:
            return None
        step, pad, gap = (value[axis if len(value) > 1 else 0] for value in (stride, padding, dilation))
        # Both kinds connect position i of the strided side with i·stride − padding + k·dilation of the other.
        near, far = (inside, outside) if transposed else (outside, inside)
        pairs = sum(1 for index in range(near) for tap in range(kernel) if 0 <= index * step - pad + tap * gap < far)
        taps *= pairs / outside
    channels = weight.shape[0] / groups if transposed else weight.shape[1]
    return channels * taps


def predicted_chi1(
    call: LayerCall, following: LayerCall, weights: Mapping[ParameterEntry, MeanAndRms] | None = None
) -> float | None:
    """Predict χ1 between a call and the affine call that takes its output; None where the theory does not apply."""
    variance = weight_variance(following, weights)
    if variance is None or not math.isfinite(call.output.rms):
        return None
    slope = 1.0 if call.activation is None else mean_squared_slope(call.activation, call.output.rms**2)
    return None if slope is None else variance * slope


def homogeneous_weights(calls: Sequence[LayerCall]) -> set[ParameterEntry]:
    """Return the weights of calls that are all linear and positively homogeneous; none if one call is not.

    On the host a bias must be zero. On a device it counts as zero, because reading it would wait for the device.
    """
    weights: list[ParameterEntry] = []
    for call in calls:
        known = call.activation.activation if call.activation is not None else None
        is_homogeneous = call.activation is None or (known is not None and known.facts.is_positively_homogeneous)
        matrices = [entry for entry in call.entries if entry.tensor.dim() >= 2]
        biases = [entry.tensor for entry in call.entries if entry.tensor.dim() < 2]
        is_affine = call.operation in ATEN_AFFINE and len(matrices) == 1 and not call.has_computed_weight
        is_affine &= not any(entry.tensor.is_complex() for entry in matrices)
        if not is_affine or not is_homogeneous:
            return set()
        if any(bias.is_cpu and flat_array(bias).any() for bias in biases):
            return set()
        weights.extend(matrices)
    return set(weights) if len(set(weights)) == len(weights) else set()


@lru_cache(maxsize=256)
def _integral(
    activation: Activation, name: str, scalars: tuple[Any, ...], keywords: tuple[tuple[str, Any], ...], q: float
) -> float:  # Any: numbers and names of an ATen call
    assert activation.kernel is not None
    z = math.sqrt(q) * _normal_nodes()
    output = getattr(torch.ops.aten, name)(z.clone(), *scalars, **dict(keywords))
    values = output[0] if isinstance(output, tuple) else output
    slope = activation.kernel.slope(z, values, (None, *scalars), dict(keywords))
    return float(slope.double().square().mean())


@lru_cache(maxsize=1)
def _normal_nodes() -> torch.Tensor:
    probabilities = (torch.arange(_NODES, dtype=torch.float64) + 0.5) / _NODES
    return math.sqrt(2) * torch.erfinv(2 * probabilities - 1)
