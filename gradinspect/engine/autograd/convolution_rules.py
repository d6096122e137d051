"""Second derivatives of convolutions: a convolution is bilinear, so each is a convolution's own first derivative.

Torch computes them by convolutions of exchanged shapes (the signal's width as the kernel's), for which its kernels are
not optimised. With y = B(x, w) the backward pass gives Bᵀ_w g and Bᵀ_x g. Along (v, a, b) their derivatives are
B(v, w) + B(x, a) + b with respect to g, Bᵀ_a g to x and Bᵀ_v g to w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any  # autograd contexts have no stubs; a geometry mixes lists of integers and booleans

import torch

from gradinspect.engine.autograd.registry import below_autograd, last_derivative, rule_for

_convolution = torch.ops.aten.convolution.default
_convolution_backward = torch.ops.aten.convolution_backward.default


@rule_for("convolution_backward")
def convolution_backward(*operands: Any) -> Any:
    """Differentiate convolutions of any number of axes, transposed and grouped ones included."""
    return ConvolutionBackward.apply(*operands)  # type: ignore[no-untyped-call]  # untyped in torch


class ConvolutionBackward(torch.autograd.Function):
    """Backward pass of a convolution."""

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> tuple[torch.Tensor | None, ...]:
        """Compute the gradients of input, weight and bias."""
        g, x, w, _bias_sizes, *geometry, _mask = operands
        ctx.save_for_backward(g, x, w)
        ctx.geometry = geometry  # stride, padding, dilation, transposed, output padding, groups
        ctx.set_materialize_grads(False)
        gradients: tuple[torch.Tensor | None, ...] = below_autograd(_convolution_backward, *operands)
        return gradients

    @staticmethod
    @last_derivative
    def backward(
        ctx: Any, v: torch.Tensor | None, a: torch.Tensor | None, b: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        """Differentiate along v, a and b, directions of the gradients of input, weight and bias."""
        g, x, w = ctx.saved_tensors
        along_g = along_x = along_w = None
        if ctx.needs_input_grad[0]:
            along_g = _along_signal(ctx, v, a)
            if b is not None:
                shift = b.view(-1, *[1] * (x.dim() - 2))
                along_g = shift.expand_as(g) if along_g is None else along_g.add_(shift)
        if ctx.needs_input_grad[1] and a is not None:
            along_x = _convolution_backward(g, x, a, None, *ctx.geometry, [True, False, False])[0]
        if ctx.needs_input_grad[2] and v is not None:
            along_w = _convolution_backward(g, v, w, None, *ctx.geometry, [False, True, False])[1]
        return along_g, along_x, along_w, *[None] * 8


def _along_signal(ctx: Any, v: torch.Tensor | None, a: torch.Tensor | None) -> torch.Tensor | None:
    """Compute B(v, w) + B(x, a)."""
    _g, x, w = ctx.saved_tensors
    geometry: Sequence[Any] = ctx.geometry
    total = None if v is None else _convolution(v, w, None, *geometry)
    if a is not None:
        part = _convolution(x, a, None, *geometry)
        total = part if total is None else total.add_(part)
    return total
