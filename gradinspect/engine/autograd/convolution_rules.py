"""Second derivatives of convolutions: a convolution is bilinear, so each is a convolution's own first derivative.

Torch takes them through convolutions of exchanged shapes (the signal's width as the kernel's), for which its kernels
were not made. Source: y = B(x, w); the backward pass gives Bᵀ_w g and Bᵀ_x g. Along (v, a, b) their derivatives are
B(v, w) + B(x, a) + b with respect to g, Bᵀ_a g to x and Bᵀ_v g to w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gradinspect.engine.autograd.below import below_autograd, last_derivative

_convolution = torch.ops.aten.convolution.default
_convolution_backward = torch.ops.aten.convolution_backward.default


class ConvolutionBackward(torch.autograd.Function):
    """Of convolutions of any number of axes, transposed ones and groups too."""

    @staticmethod
    def forward(
        ctx: Any,  # Any: torch's context
        g: torch.Tensor,
        x: torch.Tensor,
        w: torch.Tensor,
        bias_sizes: Sequence[int] | None,
        geometry: Sequence[Any],  # Any: stride, padding, dilation, transposed, output padding, groups
        mask: Sequence[bool],
    ) -> tuple[torch.Tensor | None, ...]:
        ctx.save_for_backward(g, x, w)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return below_autograd(_convolution_backward, g, x, w, bias_sizes, *geometry, mask)  # type: ignore[no-any-return]  # an operator's

    @staticmethod
    @last_derivative
    def backward(
        ctx: Any,  # Any: likewise
        v: torch.Tensor | None,
        a: torch.Tensor | None,
        b: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, ...]:
        g, x, w = ctx.saved_tensors
        along_g = along_x = along_w = None
        if ctx.needs_input_grad[0]:
            along_g = _along_signal(x, w, v, a, ctx.geometry)
            if b is not None:
                shifted = b.view(-1, *[1] * (x.dim() - 2))
                along_g = shifted.expand_as(g) if along_g is None else along_g.add_(shifted)
        if ctx.needs_input_grad[1] and a is not None:
            along_x = _convolution_backward(g, x, a, None, *ctx.geometry, [True, False, False])[0]
        if ctx.needs_input_grad[2] and v is not None:
            along_w = _convolution_backward(g, v, w, None, *ctx.geometry, [False, True, False])[1]
        return along_g, along_x, along_w, None, None, None


def _along_signal(
    x: torch.Tensor,
    w: torch.Tensor,
    v: torch.Tensor | None,
    a: torch.Tensor | None,
    geometry: Sequence[Any],  # Any: as above
) -> torch.Tensor | None:
    total = None if v is None else _convolution(v, w, None, *geometry)
    if a is not None:
        part = _convolution(x, a, None, *geometry)
        total = part if total is None else total.add_(part)
    return total
