"""Second derivatives of activations.

The backward pass is δ = g·φ'(x). Along a direction v its derivatives are vφ'(x) with respect to g and vgφ''(x) with
respect to x.
"""

from __future__ import annotations

import math
from typing import Any  # autograd contexts have no stubs

import torch

from gradinspect.engine.autograd.registry import below_autograd, last_derivative, rule_for

FLAT = 15.0  # beyond it φ'' of GELU is under 1e-46, and its factors leave the range of low precision

_gelu_backward = torch.ops.aten.gelu_backward.default
_threshold_backward = torch.ops.aten.threshold_backward.default


@rule_for("threshold_backward")
def threshold_backward(g: torch.Tensor, x: torch.Tensor, threshold: float) -> torch.Tensor:
    """Differentiate ReLU and threshold."""
    return ThresholdBackward.apply(g, x, threshold)  # type: ignore[no-untyped-call, no-any-return]  # untyped in torch


@rule_for("gelu_backward")
def gelu_backward(g: torch.Tensor, x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """Differentiate GELU."""
    return GeluBackward.apply(g, x, approximate)  # type: ignore[no-untyped-call, no-any-return]  # untyped in torch


class ThresholdBackward(torch.autograd.Function):
    """Backward pass of ReLU and threshold: φ'' is zero almost everywhere, and torch adds those zeros to the signal."""

    @staticmethod
    def forward(ctx: Any, g: torch.Tensor, x: torch.Tensor, threshold: float) -> torch.Tensor:
        """Compute g·φ'(x)."""
        ctx.save_for_backward(x)
        ctx.threshold = threshold
        signal: torch.Tensor = below_autograd(_threshold_backward, g, x, threshold)
        return signal

    @staticmethod
    @last_derivative
    def backward(ctx: Any, v: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return vφ'(x) for g."""
        (x,) = ctx.saved_tensors
        return _threshold_backward(v, x, ctx.threshold), None, None


class GeluBackward(torch.autograd.Function):
    """Backward pass of GELU, exact and by tanh, in place: torch allocates a dozen temporaries of the signal's size."""

    @staticmethod
    def forward(ctx: Any, g: torch.Tensor, x: torch.Tensor, approximate: str) -> torch.Tensor:
        """Compute g·φ'(x)."""
        ctx.save_for_backward(g, x)
        ctx.approximate = approximate
        signal: torch.Tensor = below_autograd(_gelu_signal, g, x, approximate)
        return signal

    @staticmethod
    @last_derivative
    def backward(ctx: Any, v: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return vφ'(x) for g and vgφ''(x) for x."""
        g, x = ctx.saved_tensors
        along_x = None
        if ctx.needs_input_grad[1]:
            clamped = x.clamp(-FLAT, FLAT)
            curvature = _exact_curvature(clamped) if ctx.approximate == "none" else _tanh_curvature(clamped)
            along_x = curvature.mul_(g).mul_(v)
        return _gelu_signal(v, x, ctx.approximate), along_x, None


def _gelu_signal(g: torch.Tensor, x: torch.Tensor, approximate: str) -> torch.Tensor:
    signal: torch.Tensor = _gelu_backward(g, x, approximate=approximate)
    return signal


def _exact_curvature(x: torch.Tensor) -> torch.Tensor:
    """Compute φ'' of xΦ(x): (2 − x²)·exp(−x²/2)/√(2π)."""
    square = x.square()
    return torch.mul(square, -0.5).exp_().mul_(square.sub_(2)).mul_(-1 / math.sqrt(2 * math.pi))


def _tanh_curvature(x: torch.Tensor) -> torch.Tensor:
    """Compute φ'' of x(1 + tanh u)/2, u = √(2/π)·(x + 0.044715x³): (1 − tanh²u)·(u' + x(u''/2 − u'² tanh u))."""
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    square = x.square()
    tangent = torch.mul(square, cubic).add_(1).mul_(x).mul_(scale).tanh_()
    slope = square.mul_(3 * cubic).add_(1).mul_(scale)
    inner = slope.square().mul_(tangent).neg_().add_(x, alpha=3 * cubic * scale).mul_(x).add_(slope)
    return inner.mul_(tangent.square_().neg_().add_(1))
