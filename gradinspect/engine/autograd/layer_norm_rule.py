"""Second derivative of layer normalisation, by the fused kernel of its first one.

With x̂ = (x − μ)s and s = 1/√(σ² + ε) over the M values that are normalised together, the backward pass of a signal u
is sP(u) = s(u − mean(u) − x̂·mean(u·x̂)). It is linear and symmetric in u, ∂s/∂x = −s²x̂/M and ∂⟨u, x̂⟩/∂x = sP(u); the
rest is the product rule. Torch's own formula allocates some thirty temporaries of the signal's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple  # Any: autograd contexts, and operators that torch leaves untyped

import torch

from gradinspect.engine.autograd.registry import below_autograd, last_derivative, rule_for

_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default


@rule_for("native_layer_norm_backward")
def layer_norm_backward(*operands: Any) -> Any:
    """Differentiate layer normalisation: h = w·g is pulled back, row by row."""
    return LayerNormBackward.apply(*operands)  # type: ignore[no-untyped-call]  # untyped in torch


class LayerNormBackward(torch.autograd.Function):
    """Backward pass of layer normalisation."""

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> tuple[torch.Tensor | None, ...]:
        """Compute the gradients of input, gain and shift."""
        g, x, shape, mean, scale, w, _bias, _mask = operands
        ctx.save_for_backward(g, x, mean, scale, w)
        ctx.shape = shape
        ctx.set_materialize_grads(False)
        gradients: tuple[torch.Tensor | None, ...] = below_autograd(_layer_norm_backward, *operands)
        return gradients

    @staticmethod
    @last_derivative
    def backward(
        ctx: Any, v: torch.Tensor | None, a: torch.Tensor | None, b: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        """Differentiate along v, a and b, directions of the gradients of input, gain and shift."""
        saved = _Saved(ctx.shape, *ctx.saved_tensors)
        g, w = saved.g, saved.w
        standard = saved.standardised()
        along_g = along_x = along_w = pulled = None
        if v is not None:
            of_v, along_x, pulled = _along_input(saved, standard, v)
            if ctx.needs_input_grad[5]:
                along_w = (g * of_v).sum(tuple(range(g.dim() - len(ctx.shape))))
            along_g = of_v if w is None else of_v * w
        if a is not None:
            pulled = g * a if pulled is None else pulled.add_(g * a)
        if pulled is not None:
            part = saved.pull_back(pulled)
            along_x = part if along_x is None else along_x.add_(part)
        if a is not None:
            along_g = standard.mul_(a) if along_g is None else along_g + standard.mul_(a)
        if b is not None:
            along_g = b.expand_as(g) if along_g is None else along_g + b
        return along_g, along_x, None, None, None, along_w, None, None


class _Saved(NamedTuple):
    shape: Sequence[int]
    g: torch.Tensor
    x: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor
    w: torch.Tensor | None

    def standardised(self) -> torch.Tensor:
        """Compute x̂."""
        return self.x.sub(self.mean).mul_(self.scale)

    def pull_back(self, u: torch.Tensor) -> torch.Tensor:
        """Compute sP(u)."""
        # Without a gain the kernel accepts statistics of the signal's own precision only.
        ones = None if self.mean.dtype == self.x.dtype else self.mean.new_ones(self.shape)
        u = u.to(self.x.dtype).contiguous()
        only_input = [True, False, False]
        pulled: torch.Tensor = _layer_norm_backward(
            u, self.x, self.shape, self.mean, self.scale, ones, None, only_input
        )[0]
        return pulled


def _along_input(
    saved: _Saved, standard: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute sP(v), the derivative's direct part along x, and the signal whose pull-back is the rest of it."""
    axes = tuple(range(-len(saved.shape), 0))
    h = saved.g if saved.w is None else saved.g * saved.w
    of_v = saved.pull_back(v)
    v_overlap, h_overlap = (v * standard).mean(axes, keepdim=True), (h * standard).mean(axes, keepdim=True)
    product = (h * of_v).mean(axes, keepdim=True)  # ⟨h, sP(v)⟩/M
    direct = torch.mul(standard, -saved.scale * product).sub_(of_v * (saved.scale * h_overlap))
    return of_v, direct, (h * (saved.scale * v_overlap)).neg_()
