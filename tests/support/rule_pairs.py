"""For every rule, a real network on which it fires and a similar one just on the other side of its threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from gradinspect.testing import networks as net
from gradinspect.testing.defects import aligned, dead_biases, frozen_layer, nan_weight
from gradinspect.testing.reference_networks import Reference


class Pair(NamedTuple):
    """Two networks: the rule fires on `fires` and not on `near`."""

    fires: Reference
    near: Reference


def two_terms(factor: float) -> Reference:
    """Build a chain with a loss of two terms: cross-entropy, and the mean logit of one class times a factor."""

    def loss(output: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"classes": nn.functional.cross_entropy(output, target), "extra": factor * output[:, 0].mean()}

    return Reference("", lambda: net.chain(nn.ReLU, net.he), options={"loss": loss})


def he(change: Callable[[nn.Module], None] | None = None, **options: Any) -> Reference:  # Any: options of inspect
    """Six ReLU layers from He's initialisation, changed."""

    def build() -> nn.Module:
        chain = net.chain(nn.ReLU, net.he)
        return chain if change is None else net.changed(chain, change)

    return Reference("", build, options=options)


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def orthogonal(gain: float) -> Reference:
    """Twelve linear layers, of which the last eleven multiply every signal by `gain` exactly; and a head."""

    def draw(weight: torch.Tensor) -> torch.Tensor:
        return nn.init.orthogonal_(weight, gain=gain)

    return Reference("", lambda: net.chain(None, draw, depth=12, width=48))


def moved(factor: float) -> Reference:
    """Scale one layer up and the next down: with ReLUs between them the loss is unchanged, and the gradients differ."""

    def change(model: nn.Module) -> None:
        linears(model)[1].weight.mul_(factor)
        linears(model)[2].weight.div_(factor)

    return he(change)


def head(factor: float) -> Reference:
    def change(model: nn.Module) -> None:
        linears(model)[-1].weight.mul_(factor)

    return he(change)


def one_weight(value: float) -> Reference:
    def change(model: nn.Module) -> None:
        linears(model)[2].weight[0, 0] = value

    return he(change)


def dead(share: float, depth: int) -> Reference:
    return Reference("", lambda: net.chain(nn.ReLU, net.he, depth=depth, bias=dead_biases(share)))


def with_head(*, weight: float | None) -> Reference:
    """Add a second head: unused by forward(), or called and multiplied by a constant."""

    class Heads(net.WithUnusedHead):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.body(x)
            if weight is not None:
                out = out + weight * self.auxiliary(self.body[:-1](x)).sum(dim=1, keepdim=True)
            return out

    return Reference("", Heads)


def normalised(activation: type[nn.Module]) -> Reference:
    return Reference("", lambda: net.chain(activation, net.he, depth=10, norm=nn.BatchNorm1d))


def opposed(share: float) -> Reference:
    """Build one input with targets ±1 + √share: per-sample gradients are ±1 + √share times the same vector.

    In units of that vector's square, tr Σ is 128/127 and the squared mean is `share`, from which the unbiased estimate
    subtracts tr Σ/128; so the noise scale is 1.0079 / (share − 0.00787).
    """

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        signs = torch.tensor([1.0, -1.0]).repeat(64).unsqueeze(1)
        return torch.randn(1, 16).repeat(128, 1), signs + share**0.5

    def model() -> nn.Module:
        layer = nn.Linear(16, 1, bias=False)
        nn.init.zeros_(layer.weight)
        return layer

    return Reference("", model, batch=batch, options={"loss": "mse", "diagnostics": ("gradients", "signals", "noise")})


def curved(lr: float) -> Reference:
    """Build a linear regression whose inputs are √64 times unit vectors: the Hessian is twice the identity."""

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        return 8.0 * torch.eye(64), torch.randn(64, 1)

    options = {"loss": "mse", "diagnostics": ("gradients", "curvature"), "optimizer": {"type": "sgd", "lr": lr}}
    return Reference("", lambda: nn.Linear(64, 1, bias=False), batch=batch, options=options)


def sgd(lr: float) -> Reference:
    return he(optimizer={"type": "sgd", "lr": lr})


def float16(loss_scale: float) -> Reference:
    return he(precision={"intended": "float16", "loss_scale": loss_scale})


PAIRS: dict[str, Pair] = {
    "non_finite": Pair(he(nan_weight), one_weight(1e6)),
    "vanishing_signal": Pair(orthogonal(0.5), orthogonal(0.54)),  # 6.3e-4 and 1.5e-3
    "exploding_signal": Pair(orthogonal(1.5), orthogonal(1.4)),  # 114 and 53
    "uneven_gradients": Pair(moved(3.1), moved(2.5)),
    "poor_initialization": Pair(moved(33.0), moved(29.0)),
    "initialization_mismatch": Pair(he(aligned), he()),
    "dead_units": Pair(dead(0.25, 3), dead(0.19, 3)),
    "correlation_collapse": Pair(
        Reference("", lambda: net.chain(nn.ReLU, net.he, depth=20)),
        Reference("", lambda: net.chain(nn.ReLU, net.he, depth=12)),
    ),
    "saturated_activation": Pair(
        Reference("", lambda: net.chain(nn.Tanh, net.normal(0.25))),
        Reference("", lambda: net.chain(nn.Tanh, net.normal(0.15))),
    ),
    "zero_gradient": Pair(dead(0.75, 1), dead(0.65, 1)),
    "unused_parameter": Pair(with_head(weight=None), with_head(weight=1e-3)),
    "frozen_parameter": Pair(he(frozen_layer), he()),
    "update_ratio": Pair(sgd(0.15), sgd(0.1)),
    "low_precision_underflow": Pair(float16(1e-4), float16(1e-2)),
    "low_precision_overflow": Pair(float16(7e4), float16(5e4)),
    "sharpness": Pair(curved(1.05), curved(0.95)),
    "initial_loss": Pair(head(2.0), head(1.3)),
    "loss_balance": Pair(two_terms(13.5), two_terms(12.5)),  # gradients that differ 31 and 29 times
    "noise_dominated": Pair(opposed(0.0085), opposed(0.0089)),  # 12 and 7.6 times the batch
    "normalization_growth": Pair(normalised(nn.ReLU), normalised(nn.Tanh)),
    "absolute_gradient_floor": Pair(
        Reference("", lambda: net.chain(nn.Sigmoid, nn.init.xavier_normal_, depth=12)),
        Reference("", lambda: net.chain(nn.Sigmoid, nn.init.xavier_normal_, depth=6)),
    ),
}
