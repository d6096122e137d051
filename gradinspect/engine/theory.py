"""Mean-field prediction of the backward gain, from the weights and pre-activations that were measured.

Source: Schoenholz et al. 2017, "Deep information propagation", eq. 10: χ1 = σ_w² ∫ Dz φ′(√q z)², with
σ_w² = fan_in·Var W. With σ_w² defined over the fan-in, χ1 is the expected ratio of *squared norms*
‖δ_l‖² / ‖δ_{l+1}‖² whatever the two widths are: each unit of layer l collects Var W·‖δ_{l+1}‖², and there are
fan_in of them. Only the per-element (rms) ratio carries the width factor n_{l+1}/n_l.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from gradinspect.engine.forward import ActivationCall, LayerCall
from gradinspect.engine.statistics import amplitude

AFFINE = frozenset({"addmm", "mm", "bmm", "convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution"})
_NODES = 4096  # equal-probability nodes of N(0, 1); even, so that a step at 0 is halved exactly


@lru_cache(maxsize=1)
def _normal_nodes() -> torch.Tensor:
    probabilities = (torch.arange(_NODES, dtype=torch.float64) + 0.5) / _NODES
    return math.sqrt(2) * torch.erfinv(2 * probabilities - 1)


def mean_squared_slope(call: ActivationCall, q: float) -> float | None:
    """E[φ′(√q Z)²] for Z ~ N(0, 1), by a 4,096-point rule (relative error under 1e-3 for the smooth φ of torch).

    None for a nonlinearity with tensors among its arguments (PReLU's slopes, RReLU's noise).
    """
    z = math.sqrt(q) * _normal_nodes()
    name = call.operation.removesuffix("_")
    if name in {"_prelu_kernel", "rrelu_with_noise"}:
        return None
    output = getattr(torch.ops.aten, name)(z.clone(), *call.arguments[1:], **call.keywords)
    values = output[0] if isinstance(output, tuple) else output
    slope = call.activation.slope(z, values, (None, *call.arguments[1:]), call.keywords)
    return float(slope.double().square().mean())


def weight_variance(call: LayerCall) -> float | None:
    """σ_w² = fan_in·Var W of an affine call, fan_in counted for one output unit; None for other calls."""
    if call.operation not in AFFINE:
        return None
    weights = [entry.tensor for entry in call.entries if entry.tensor.dim() >= 2]
    if len(weights) != 1 or not weights[0].numel():
        return None
    weight = weights[0]
    units = call.output_shape[1] if "conv" in call.operation else call.output_shape[-1]
    if not units or weight.numel() % units:
        return None
    return weight.numel() // units * amplitude(weight).std ** 2


def predicted_chi1(call: LayerCall, following: LayerCall) -> float | None:
    """χ1 between a call and the affine call that its output goes to; None where the theory has nothing to say."""
    variance = weight_variance(following)
    if variance is None or not math.isfinite(call.output.rms):
        return None
    slope = 1.0 if call.activation is None else mean_squared_slope(call.activation, call.output.rms**2)
    return None if slope is None else variance * slope
