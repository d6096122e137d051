"""Second derivative of batch normalisation, by the fused kernel of its first one.

`layer_norm_rule` has the formula. Here the values of one channel are normalised together, by the batch's statistics;
with running statistics, which do not depend on x, P is the identity.
"""

from __future__ import annotations

from typing import Any, NamedTuple  # Any: autograd contexts, and operators that torch leaves untyped

import torch

from gradinspect.engine.autograd.registry import below_autograd, last_derivative, rule_for

_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default


@rule_for("native_batch_norm_backward")
def batch_norm_backward(*operands: Any) -> Any:
    """Differentiate batch normalisation, by the batch's statistics or by running ones."""
    return BatchNormBackward.apply(*operands)  # type: ignore[no-untyped-call]  # untyped in torch


class BatchNormBackward(torch.autograd.Function):
    """Backward pass of batch normalisation."""

    @staticmethod
    def forward(ctx: Any, *operands: Any) -> tuple[torch.Tensor | None, ...]:
        """Compute the gradients of input, gain and shift."""
        g, x, w, *statistics, training, epsilon, _mask = operands
        ctx.save_for_backward(g, x, w, *statistics)
        ctx.training, ctx.epsilon = training, epsilon
        ctx.set_materialize_grads(False)
        gradients: tuple[torch.Tensor | None, ...] = below_autograd(_batch_norm_backward, *operands)
        return gradients

    @staticmethod
    @last_derivative
    def backward(
        ctx: Any, v: torch.Tensor | None, a: torch.Tensor | None, b: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        """Differentiate along v, a and b, directions of the gradients of input, gain and shift."""
        saved = _Saved(ctx.training, ctx.epsilon, *ctx.saved_tensors)
        x, w = saved.x, saved.w
        mean, scale = saved.statistics_in_use()
        of_g = saved.pull_back(saved.g)
        along_g = along_x = along_w = None
        if v is not None:
            of_v = saved.pull_back(v)
            along_w = (saved.g * of_v.signal).sum([axis for axis in range(x.dim()) if axis != 1])  # s⟨v, P(g)⟩
            if saved.training:
                along_x = _along_input(saved, of_g, of_v, along_w, a)
            along_g = of_v.signal if w is None else of_v.signal.mul_(saved.over_positions(w))
        if a is not None:
            if along_x is None:
                along_x = of_g.signal.mul_(saved.over_positions(a))
            slope = a * scale
            along_g = (
                x * saved.over_positions(slope) if along_g is None else along_g.addcmul_(x, saved.over_positions(slope))
            )
            along_g = along_g.sub_(saved.over_positions(slope * mean))
        if b is not None:
            shift = saved.over_positions(b)
            along_g = shift.expand_as(x) if along_g is None else along_g.add_(shift)
        return along_g, along_x, None if w is None else along_w, *[None] * 7


class _PulledBack(NamedTuple):
    """What the kernel returns for a signal u.

    Attributes:
        signal: sP(u), or su with running statistics.
        overlap: Σ u·x̂ of each channel.
    """

    signal: torch.Tensor
    overlap: torch.Tensor


class _Saved(NamedTuple):
    training: bool
    epsilon: float
    g: torch.Tensor
    x: torch.Tensor
    w: torch.Tensor | None
    running_mean: torch.Tensor
    running_variance: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def statistics_in_use(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return μ and s of each channel."""
        if self.training:
            return self.mean, self.scale
        return self.running_mean, (self.running_variance + self.epsilon).rsqrt()

    def pull_back(self, u: torch.Tensor) -> _PulledBack:
        """Run the kernel on a signal, with gain 1."""
        ones = None if self.w is None else torch.ones_like(self.w)
        statistics = (self.running_mean, self.running_variance, self.mean, self.scale)
        without_shift = [True, True, False]
        signal, overlap, _ = _batch_norm_backward(
            u, self.x, ones, *statistics, self.training, self.epsilon, without_shift
        )
        return _PulledBack(signal, overlap)

    def over_positions(self, channels: torch.Tensor) -> torch.Tensor:
        """Reshape one value for each channel so that it broadcasts over x."""
        return channels.view(-1, *[1] * (self.x.dim() - 2))


def _along_input(
    saved: _Saved, of_g: _PulledBack, of_v: _PulledBack, product: torch.Tensor, a: torch.Tensor | None
) -> torch.Tensor:
    """Compute the derivative along x of a pass by the batch's statistics.

    Args:
        saved: what the operator saved.
        of_g: the signal, pulled back.
        of_v: the direction, pulled back.
        product: s⟨v, P(g)⟩ of each channel.
        a: direction of the gain's gradient, whose part is of_g·a.
    """
    per_value = saved.x.shape[1] / saved.x.numel()
    pull = saved.scale * per_value if saved.w is None else saved.w * saved.scale * per_value
    along_x = of_v.signal * saved.over_positions(-pull * of_g.overlap)
    slope = -pull * product * saved.scale
    along_x.addcmul_(saved.x, saved.over_positions(slope)).sub_(saved.over_positions(slope * saved.mean))
    of_v_part = -pull * of_v.overlap if a is None else a - pull * of_v.overlap
    return along_x.addcmul_(of_g.signal, saved.over_positions(of_v_part))
