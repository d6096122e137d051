"""Slopes φ′ of the nonlinearities that are one ATen operation, by PyTorch's own derivative kernels.

An activation is recognized by the operation that runs, not by the module that called it: `nn.ReLU`, `torch.relu`
inside a forward method and a TorchScript file's `aten::relu_` are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from gradinspect.contracts.nonlinearities import NONLINEARITIES, Nonlinearity

aten = torch.ops.aten
Kernel = Callable[..., torch.Tensor]


Arguments = tuple[Any, ...]  # Any: arguments of ATen operations
Keywords = Mapping[str, Any]
Slope = Callable[[torch.Tensor, torch.Tensor, Arguments, Keywords], torch.Tensor]


@dataclass(frozen=True)
class SlopeKernel:
    """How φ′ of one function is computed.

    Attributes:
        slope: φ′ from the input z, the output φ(z) and the operation's other arguments.
        needs_input: whether `slope` reads z, which an in-place call overwrites.
        reads_whole_tensor: whether `slope` has arguments of z's shape, so that no sample of z will do.
        is_sign_of_output: whether φ′ is 1 where φ(z) is positive, and 0 elsewhere.
    """

    slope: Slope
    needs_input: bool = False
    reads_whole_tensor: bool = False
    is_sign_of_output: bool = False


@dataclass(frozen=True)
class Activation:
    """A nonlinearity φ that is one ATen operation.

    Attributes:
        facts: what does not depend on torch.
        kernel: of φ′; None where φ mixes elements.
        largest_slope: max φ′ where this call saturates on both sides, else None.
    """

    facts: Nonlinearity
    kernel: SlopeKernel | None
    largest_slope: float | None


SATURATED_BELOW = 0.05  # share of the largest slope under which an element counts as saturated (docs/diagnostics.md)


def _kernel(name: str) -> Kernel:
    """Return one of PyTorch's own derivative kernels, typed."""
    kernel: Kernel = getattr(aten, name)
    return kernel


def _argument(arguments: Arguments, keywords: Keywords, index: int, name: str, default: Any) -> Any:
    """Return one argument of an operation: ATen leaves out those that have their default value."""
    if len(arguments) > index:
        return arguments[index]
    return keywords.get(name, default)


def _elu(z: torch.Tensor, _y: torch.Tensor, arguments: Arguments, keywords: Keywords) -> torch.Tensor:
    alpha = _argument(arguments, keywords, 1, "alpha", 1.0)
    scale = _argument(arguments, keywords, 2, "scale", 1.0)
    input_scale = _argument(arguments, keywords, 3, "input_scale", 1.0)
    return _kernel("elu_backward")(torch.ones_like(z), alpha, scale, input_scale, False, z)


def _celu(z: torch.Tensor, _y: torch.Tensor, arguments: Arguments, keywords: Keywords) -> torch.Tensor:
    alpha = _argument(arguments, keywords, 1, "alpha", 1.0)
    return torch.where(z > 0, 0.0, z / alpha).exp()


def _gelu(z: torch.Tensor, _y: torch.Tensor, _arguments: Arguments, keywords: Keywords) -> torch.Tensor:
    return _kernel("gelu_backward")(torch.ones_like(z), z, approximate=keywords.get("approximate", "none"))


def _softplus(z: torch.Tensor, _y: torch.Tensor, arguments: Arguments, keywords: Keywords) -> torch.Tensor:
    beta = _argument(arguments, keywords, 1, "beta", 1.0)
    threshold = _argument(arguments, keywords, 2, "threshold", 20.0)
    return _kernel("softplus_backward")(torch.ones_like(z), z, beta, threshold)


def _hardtanh(z: torch.Tensor, _y: torch.Tensor, arguments: Arguments, keywords: Keywords) -> torch.Tensor:
    low = _argument(arguments, keywords, 1, "min_val", -1.0)
    high = _argument(arguments, keywords, 2, "max_val", 1.0)
    return _kernel("hardtanh_backward")(torch.ones_like(z), z, low, high)


def _threshold(z: torch.Tensor, _y: torch.Tensor, arguments: Arguments, _keywords: Keywords) -> torch.Tensor:
    threshold: float = arguments[1]
    return z > threshold


def _leaky_relu(_z: torch.Tensor, y: torch.Tensor, arguments: Arguments, keywords: Keywords) -> torch.Tensor:
    negative_slope = _argument(arguments, keywords, 1, "negative_slope", 0.01)
    return torch.where(y > 0, y.new_ones(()), negative_slope)


def _prelu(z: torch.Tensor, _y: torch.Tensor, arguments: Arguments, _keywords: Keywords) -> torch.Tensor:
    slopes: torch.Tensor = arguments[1].detach()
    return torch.where(z > 0, torch.ones_like(z), slopes.expand_as(z))


def _rrelu(z: torch.Tensor, y: torch.Tensor, _arguments: Arguments, _keywords: Keywords) -> torch.Tensor:
    return torch.where(z > 0, torch.ones_like(z), y / z)  # below 0 the slope drawn for this element is y/z


def _shrink(_z: torch.Tensor, y: torch.Tensor, _arguments: Arguments, _keywords: Keywords) -> torch.Tensor:
    return y != 0


# By the name of the function in contracts/nonlinearities.
_KERNELS = {
    "relu": SlopeKernel(lambda _z, y, _a, _k: y > 0, is_sign_of_output=True),
    "sigmoid": SlopeKernel(lambda _z, y, _a, _k: y * (1 - y)),
    "tanh": SlopeKernel(lambda _z, y, _a, _k: 1 - y * y),
    "leaky_relu": SlopeKernel(_leaky_relu),
    "elu": SlopeKernel(_elu, needs_input=True),
    "gelu": SlopeKernel(_gelu, needs_input=True),
    "silu": SlopeKernel(lambda z, _y, _a, _k: aten.silu_backward(torch.ones_like(z), z), needs_input=True),
    "mish": SlopeKernel(lambda z, _y, _a, _k: aten.mish_backward(torch.ones_like(z), z), needs_input=True),
    "softplus": SlopeKernel(_softplus, needs_input=True),
    "hardtanh": SlopeKernel(_hardtanh, needs_input=True),
    "hardsigmoid": SlopeKernel(
        lambda z, _y, _a, _k: aten.hardsigmoid_backward(torch.ones_like(z), z), needs_input=True
    ),
    "hardswish": SlopeKernel(lambda z, _y, _a, _k: aten.hardswish_backward(torch.ones_like(z), z), needs_input=True),
    "threshold": SlopeKernel(_threshold, needs_input=True),
    "log_sigmoid": SlopeKernel(lambda z, _y, _a, _k: torch.sigmoid(-z), needs_input=True),
    "prelu": SlopeKernel(_prelu, needs_input=True, reads_whole_tensor=True),
    "rrelu": SlopeKernel(_rrelu, needs_input=True),
    "celu": SlopeKernel(_celu, needs_input=True),
    "hardshrink": SlopeKernel(_shrink),
    "softshrink": SlopeKernel(_shrink),
}
ACTIVATIONS = {
    record.operations[0]: Activation(
        record, _KERNELS[record.name] if record.is_elementwise else None, record.largest_slope
    )
    for record in NONLINEARITIES
    if len(record.operations) == 1
}


def find_activation(operation: str, arguments: Arguments, keywords: Keywords) -> Activation | None:
    """Return the nonlinearity that an ATen operation computes, in place (`relu_`) or not; None for other operations.

    >>> find_activation("relu_", (), {}).facts.name
    'relu'
    """
    activation = ACTIVATIONS.get(operation) or ACTIVATIONS.get(operation.removesuffix("_"))
    if activation is None or not operation.startswith("hardtanh"):
        return activation
    # ReLU6 is hardtanh on [0, 6]: it rectifies, and its flat negative side does not count as saturation.
    if _argument(arguments, keywords, 1, "min_val", -1.0) >= 0:
        return replace(activation, largest_slope=None)
    return activation


@dataclass(frozen=True, slots=True)
class SlopeReading:
    """Mean of φ′(z)² over all elements, and the share of saturated ones (None where φ does not saturate)."""

    mean_square: float
    saturated_fraction: float | None


def slope_of(
    activation: Activation, z: torch.Tensor, y: torch.Tensor, arguments: Arguments, keywords: Keywords
) -> torch.Tensor | None:
    """Compute φ′ for each element of z; None where φ is not element-wise.

    Returns:
        Flat, in float32 or float64; bool where φ′ is only 0 or 1.
    """
    if activation.kernel is None:
        return None
    slope = activation.kernel.slope(z, y, arguments, keywords).reshape(-1)
    return slope if slope.dtype in (torch.float32, torch.float64, torch.bool) else slope.float()


def slope_between(before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute φ′ from the gradients on both sides of an element-wise φ, and where it is known.

    Args:
        before: gradient with respect to z.
        after: gradient with respect to φ(z); where it is zero the slope is unknown.
    """
    z, y = (side.detach().reshape(-1) for side in (before, after))
    if z.dtype not in (torch.float32, torch.float64):
        z, y = z.float(), y.float()
    limits = torch.finfo(z.dtype)
    known = (y.abs() > limits.tiny / limits.eps) & y.isfinite() & z.isfinite()
    return torch.where(known, z / y, 0.0), known


def slope_sums(
    slope: torch.Tensor, largest: float | None, known: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | int]:
    """Compute the sum of squares, the number of saturated elements, and the number of elements.

    Args:
        slope: from `slope_of`.
        largest: max φ′, None where φ does not saturate.
        known: elements whose slope is known; all by default.
    """
    if slope.dtype is torch.bool:
        return torch.count_nonzero(slope), None, slope.numel()
    low = None if largest is None else slope < SATURATED_BELOW * largest
    if known is None:
        return torch.dot(slope, slope), None if low is None else torch.count_nonzero(low), slope.numel()
    low = None if low is None else torch.count_nonzero(low & known)
    return torch.dot(slope, slope), low, torch.count_nonzero(known)


def slope_reading(square: float, low: float | None, count: float) -> SlopeReading:
    """Divide `slope_sums` by the number of elements; NaN for no elements."""
    if not count:
        return SlopeReading(math.nan, None)
    return SlopeReading(square / count, None if low is None else low / count)
