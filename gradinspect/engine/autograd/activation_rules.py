"""Second derivatives of activations: δ = g·φ'(x) differentiated along v, vφ'(x) with respect to g, vgφ''(x) to x."""

from __future__ import annotations

import math
from typing import Any

import torch

from gradinspect.engine.autograd.below import below_autograd, last_derivative

_gelu_backward = torch.ops.aten.gelu_backward.default
_threshold_backward = torch.ops.aten.threshold_backward.default


class ThresholdBackward(torch.autograd.Function):
    """Of ReLU and threshold: φ'' is zero almost everywhere, and torch adds those zeros to the signal."""

    @staticmethod
    def forward(ctx: Any, g: torch.Tensor, x: torch.Tensor, threshold: float) -> torch.Tensor:  # Any: torch's context
        ctx.save_for_backward(x)
        ctx.threshold = threshold
        return below_autograd(_threshold_backward, g, x, threshold)  # type: ignore[no-any-return]  # an operator's

    @staticmethod
    @last_derivative
    def backward(ctx: Any, v: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # Any: likewise
        (x,) = ctx.saved_tensors
        return _threshold_backward(v, x, ctx.threshold), None, None


class GeluBackward(torch.autograd.Function):
    """Of GELU, exact and by tanh, in place: torch takes a dozen temporaries of the signal's size."""

    @staticmethod
    def forward(ctx: Any, g: torch.Tensor, x: torch.Tensor, approximate: str) -> torch.Tensor:  # Any: torch's context
        ctx.save_for_backward(g, x)
        ctx.approximate = approximate
        return below_autograd(_call_gelu, g, x, approximate)  # type: ignore[no-any-return]  # an operator's

    @staticmethod
    @last_derivative
    def backward(ctx: Any, v: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # Any: likewise
        g, x = ctx.saved_tensors
        along_x = None
        if ctx.needs_input_grad[1]:
            near = x.clamp(-_FLAT, _FLAT)
            bend = _exact_bend(near) if ctx.approximate == "none" else _tanh_bend(near)
            along_x = bend.mul_(g).mul_(v)
        return _call_gelu(v, x, ctx.approximate), along_x, None


_FLAT = 15.0  # beyond it φ'' is under 1e-46, and its factors leave the range of low precision


def _call_gelu(g: torch.Tensor, x: torch.Tensor, approximate: str) -> torch.Tensor:
    return _gelu_backward(g, x, approximate=approximate)  # type: ignore[no-any-return]  # an operator's


def _exact_bend(x: torch.Tensor) -> torch.Tensor:
    """φ'' of xΦ(x): (2 − x²)·exp(−x²/2)/√(2π)."""
    square = x.square()
    return torch.mul(square, -0.5).exp_().mul_(square.sub_(2)).mul_(-1 / math.sqrt(2 * math.pi))


def _tanh_bend(x: torch.Tensor) -> torch.Tensor:
    """φ'' of x(1 + tanh u)/2, u = √(2/π)·(x + 0.044715x³): (1 − tanh²u)·(u' + x(u''/2 − u'² tanh u))."""
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    square = x.square()
    tangent = torch.mul(square, cubic).add_(1).mul_(x).mul_(scale).tanh_()
    slope = square.mul_(3 * cubic).add_(1).mul_(scale)
    inner = slope.square().mul_(tangent).neg_().add_(x, alpha=3 * cubic * scale).mul_(x).add_(slope)
    return inner.mul_(tangent.square_().neg_().add_(1))
