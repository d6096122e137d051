"""Second derivatives of batch and layer normalisation, through the fused kernels of their first ones.

With x̂ = (x − μ)s and s = 1/√(σ² + ε) over the M values that are normalised together, the backward pass of a signal u
is sP(u) = s(u − mean(u) − x̂·mean(u·x̂)). It is linear and symmetric in u, ∂s/∂x = −s²x̂/M and ∂⟨u, x̂⟩/∂x = sP(u); the
rest is the product rule. Torch's own formulas take some thirty temporaries of the signal's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gradinspect.engine.autograd.below import below_autograd, last_derivative

_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default


class LayerNormBackward(torch.autograd.Function):
    """Of layer normalisation: h = w·g is pulled back, row by row."""

    @staticmethod
    def forward(
        ctx: Any,  # Any: torch's context
        g: torch.Tensor,
        x: torch.Tensor,
        shape: Sequence[int],
        mean: torch.Tensor,
        scale: torch.Tensor,
        w: torch.Tensor | None,
        bias: torch.Tensor | None,
        mask: Sequence[bool],
    ) -> tuple[torch.Tensor | None, ...]:
        ctx.save_for_backward(g, x, mean, scale, w)
        ctx.shape = shape
        ctx.set_materialize_grads(False)
        return below_autograd(_layer_norm_backward, g, x, shape, mean, scale, w, bias, mask)  # type: ignore[no-any-return]  # an operator's

    @staticmethod
    @last_derivative
    def backward(
        ctx: Any,  # Any: likewise
        v: torch.Tensor | None,
        a: torch.Tensor | None,
        b: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, ...]:
        g, x, mean, scale, w = ctx.saved_tensors
        axes = tuple(range(-len(ctx.shape), 0))
        # Without a weight the kernel takes statistics of the signal's own precision alone.
        ones = None if mean.dtype == x.dtype else mean.new_ones(ctx.shape)

        def pulled(u: torch.Tensor) -> torch.Tensor:  # sP(u)
            only = [True, False, False]
            u = u.to(x.dtype).contiguous()
            return _layer_norm_backward(u, x, ctx.shape, mean, scale, ones, None, only)[0]  # type: ignore[no-any-return]  # an operator's

        centred = x.sub(mean).mul_(scale)  # x̂
        along_g = along_x = along_w = None
        inner = None if a is None else g * a
        if v is not None:
            h, of_v = g if w is None else g * w, pulled(v)
            overlap, of_h = (v * centred).mean(axes, keepdim=True), (h * centred).mean(axes, keepdim=True)
            stretch = (h * of_v).mean(axes, keepdim=True)  # ⟨h, sP(v)⟩/M
            along_x = torch.mul(centred, -scale * stretch).sub_(of_v * (scale * of_h))
            moved = h * (scale * overlap)
            inner = moved.neg_() if inner is None else inner - moved
            if ctx.needs_input_grad[5]:
                along_w = (g * of_v).sum(tuple(range(g.dim() - len(ctx.shape))))
            along_g = of_v if w is None else of_v * w
        if inner is not None:
            part = pulled(inner)
            along_x = part if along_x is None else along_x.add_(part)
        if a is not None:
            along_g = centred.mul_(a) if along_g is None else along_g + centred.mul_(a)
        if b is not None:
            along_g = b.expand_as(g) if along_g is None else along_g + b
        return along_g, along_x, None, None, None, along_w, None, None


class BatchNormBackward(torch.autograd.Function):
    """Of batch normalisation, by the batch's statistics or by running ones, channel by channel."""

    @staticmethod
    def forward(
        ctx: Any,  # Any: torch's context
        g: torch.Tensor,
        x: torch.Tensor,
        w: torch.Tensor | None,
        running_mean: torch.Tensor | None,
        running_variance: torch.Tensor | None,
        mean: torch.Tensor | None,
        scale: torch.Tensor | None,
        training: bool,
        epsilon: float,
        mask: Sequence[bool],
    ) -> tuple[torch.Tensor | None, ...]:
        statistics = (running_mean, running_variance, mean, scale)
        ctx.save_for_backward(g, x, w, *statistics)
        ctx.training, ctx.epsilon = training, epsilon
        ctx.set_materialize_grads(False)
        return below_autograd(_batch_norm_backward, g, x, w, *statistics, training, epsilon, mask)  # type: ignore[no-any-return]  # an operator's

    @staticmethod
    @last_derivative
    def backward(
        ctx: Any,  # Any: likewise
        v: torch.Tensor | None,
        a: torch.Tensor | None,
        b: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, ...]:
        g, x, w, *statistics = ctx.saved_tensors
        running_mean, running_variance, mean, scale = statistics
        if not ctx.training:
            mean, scale = running_mean, (running_variance + ctx.epsilon).rsqrt()
        ones = None if w is None else torch.ones_like(w)

        def pulled(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # sP(u), or su; Σ u·x̂
            mask = [True, True, False]
            return _batch_norm_backward(u, x, ones, *statistics, ctx.training, ctx.epsilon, mask)[:2]  # type: ignore[no-any-return]  # an operator's

        def spread(channels: torch.Tensor) -> torch.Tensor:
            return channels.view(-1, *[1] * (x.dim() - 2))

        of_g, with_g = pulled(g)
        per_value = x.shape[1] / x.numel()
        along_g = along_x = along_w = None
        if v is not None:
            of_v, with_v = pulled(v)
            along_w = (g * of_v).sum([axis for axis in range(x.dim()) if axis != 1])  # s⟨v, P(g)⟩
            if ctx.training:
                pull = scale * per_value if w is None else w * scale * per_value
                along_x = of_v * spread(-pull * with_g)
                slope = -pull * along_w * scale
                along_x.addcmul_(x, spread(slope)).sub_(spread(slope * mean))
                along_x.addcmul_(of_g, spread(-pull * with_v if a is None else a - pull * with_v))
            along_g = of_v if w is None else of_v.mul_(spread(w))
        if a is not None:
            if along_x is None:
                along_x = of_g.mul_(spread(a))
            slope = a * scale
            along_g = x * spread(slope) if along_g is None else along_g.addcmul_(x, spread(slope))
            along_g = along_g.sub_(spread(slope * mean))
        if b is not None:
            along_g = spread(b).expand_as(x) if along_g is None else along_g.add_(spread(b))
        return along_g, along_x, None if w is None else along_w, *[None] * 7
