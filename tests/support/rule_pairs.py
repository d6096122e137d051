"""For every rule, a real network on which it fires and a similar one just on the other side of its threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from gradinspect.testing import networks as net
from gradinspect.testing.defects import aligned, dead_biases, frozen_layer, nan_weight
from gradinspect.testing.reference_networks import Reference

TRIAL = {"steps": 2000, "seconds": 600.0}


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


def sgd(lr: float, **options: Any) -> Reference:  # Any: as above
    return he(optimizer={"type": "sgd", "lr": lr}, **options)


def sigmoids(depth: int) -> Reference:
    """Sigmoid layers from torch's defaults, trained for a while: ten stay at chance."""
    return Reference("", lambda: net.chain(nn.Sigmoid, None, depth=depth, width=32), options={"trial": TRIAL})


def float16(loss_scale: float) -> Reference:
    return he(precision={"intended": "float16", "loss_scale": loss_scale})


def regression(inputs: float, targets: float, **options: Any) -> Reference:
    """Build two layers, on inputs and targets that are multiplied by factors."""

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        return inputs * torch.randn(128, 64), targets * torch.randn(128, 10)

    options = {"loss": "mse", **options}
    return Reference("", lambda: net.chain(nn.ReLU, None, depth=1), batch=batch, options=options)


def flat_target(*, is_flat: bool) -> Reference:
    """Build one output for each sample, and a target of one axis or two."""

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(32, 16), torch.randn(32) if is_flat else torch.randn(32, 1)

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).square().mean()

    return Reference("", lambda: nn.Linear(16, 1), batch=batch, options={"loss": loss})


def ending(last: nn.Module) -> Reference:
    return Reference("", lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), last))


def grouped(groups: int) -> Reference:
    """Normalise channels in groups, on a map of one position."""
    return Reference(
        "", lambda: nn.Sequential(nn.Linear(64, 32), nn.GroupNorm(groups, 32), nn.ReLU(), nn.Linear(32, 10))
    )


def constant(*, noise: float) -> Reference:
    """Set a hidden layer and what follows it to a constant, with or without noise."""

    def change(model: nn.Module) -> None:
        for linear in linears(model)[-2:]:
            nn.init.normal_(linear.weight, 0.1, noise)
            nn.init.zeros_(linear.bias)

    def one_output() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(64, 16), torch.randn(64, 1)

    def build() -> nn.Module:
        return net.changed(
            nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 1)), change
        )

    return Reference("", build, batch=one_output, options={"loss": "mse"})


class ListOfLayers(nn.Module):
    """Two layers between others, in a list or in a ModuleList."""

    def __init__(self, container: Callable[[list[nn.Module]], Any]) -> None:  # Any: a list, or a module
        super().__init__()
        self.first, self.last = nn.Linear(64, 32), nn.Linear(32, 10)
        self.middle = container([nn.Linear(32, 32), nn.Linear(32, 32)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        for layer in self.middle:
            x = torch.relu(layer(x))
        out: torch.Tensor = self.last(x)
        return out


def optimized(*, skipped: int) -> Reference:
    """Give an optimizer object that holds all parameters but the first."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = net.chain(nn.ReLU, net.he, depth=3)
    optimizer = torch.optim.RMSprop(list(model.parameters())[skipped:])
    return Reference("", lambda: model, options={"optimizer": optimizer})


def dying(lr: float) -> Reference:
    """Build units that die in the first steps of a large learning rate; the loss is then that of the output 0."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1, bias=False))

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(64, 16).abs(), torch.randn(64, 1) - 2

    options = {
        "loss": "mse", "diagnostics": ("gradients", "training_trace"), "optimizer": {"type": "sgd", "lr": lr}
    }  # fmt: skip
    return Reference("", model, batch=batch, options=options)


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
    "input_scale": Pair(regression(21.0, 1.0), regression(16.0, 1.0)),
    "target_scale": Pair(regression(1.0, 0.048), regression(1.0, 0.052)),
    "target_shape": Pair(flat_target(is_flat=True), flat_target(is_flat=False)),
    "output_activation": Pair(ending(nn.Softmax(1)), ending(nn.LogSoftmax(1))),
    "batch_statistics": Pair(grouped(32), grouped(16)),
    "symmetry": Pair(constant(noise=0.0), constant(noise=1e-3)),
    "unregistered_parameter": Pair(
        Reference("", lambda: ListOfLayers(list)), Reference("", lambda: ListOfLayers(nn.ModuleList))
    ),
    "optimizer_misses_parameter": Pair(optimized(skipped=1), optimized(skipped=0)),
    "optimizer_step": Pair(sgd(1e-8), sgd(1e-3)),
    "training_decay": Pair(dying(2.0), dying(0.01)),
    "zero_gradient": Pair(dead(0.75, 1), dead(0.65, 1)),
    "unused_parameter": Pair(with_head(weight=None), with_head(weight=1e-3)),
    "frozen_parameter": Pair(he(frozen_layer), he()),
    "does_not_learn": Pair(sigmoids(10), sigmoids(2)),
    "learning_rate": Pair(sgd(1e-5, trial=TRIAL), sgd(1e-3, trial=TRIAL)),  # 240,000 steps, and under 10,000
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
