"""Small networks of the kinds that public reports of failed training describe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor


@dataclass(frozen=True)
class Training:
    """Arguments of `inspect`."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    options: dict[str, Any] = field(default_factory=dict)  # Any: options of inspect


ADAM = {"type": "adam", "lr": 1e-2}
SGD = {"type": "sgd", "lr": 0.1}


class Between(nn.Module):
    """An encoder, a function of its output, and a decoder; the function is what goes wrong."""

    def __init__(self, function: Callable[[Tensor], Tensor], outputs: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
        self.decoder = nn.Linear(16, outputs)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.function(self.encoder(x)))
        return out


def classes(
    function: Callable[[Tensor], Tensor] | None = None, last: nn.Module | None = None, **options: Any
) -> Training:
    x = torch.randn(128, 16)
    model = Between(function or torch.relu)
    net = model if last is None else nn.Sequential(model, last)
    return Training(net, x, (x @ torch.randn(16, 4)).argmax(1), {"optimizer": ADAM, **options})


def values(outputs: nn.Module, targets: Callable[[Tensor], Tensor], *, inputs: float = 1.0, **options: Any) -> Training:
    x = torch.randn(128, 16)
    net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1), outputs)
    return Training(net, inputs * x, targets(x), {"loss": "mse", "optimizer": SGD, **options})


def bumpy(x: Tensor) -> Tensor:
    return torch.sin(x[:, :1] * 2) + x[:, 1:2]


def siamese(eps: float) -> Training:
    x = torch.randn(64, 16)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        shifted = output.roll(1, 0).clone()
        shifted[0] = output[0].detach()
        distance = ((output - shifted) ** 2).sum(1).add(eps).sqrt()
        return (distance - target).square().mean()

    return Training(Between(torch.relu), x, torch.rand(64), {"loss": loss, "optimizer": ADAM})


class Attention(nn.Module):
    """One head with a mask."""

    def __init__(self, *, sees_itself: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)
        mask = torch.full((8, 8), -math.inf).triu(1 if sees_itself else 0)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 8, 16)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 4 + self.get_buffer("mask")
        out: Tensor = self.head(scores.softmax(2) @ self.value(x))[:, 1:].mean(1)
        return out


def attention(*, sees_itself: bool) -> Training:
    return Training(
        Attention(sees_itself=sees_itself), torch.randn(64, 128), torch.randint(0, 4, (64,)), {"optimizer": ADAM}
    )


def half(eps: float) -> Training:
    training = classes(optimizer={"type": "adam", "lr": 1e-3, "eps": eps})
    return Training(training.model.half(), training.inputs.half(), training.targets, training.options)


def constant(*, is_constant: bool) -> Training:
    training = values(nn.Identity(), bumpy, optimizer=ADAM)
    if is_constant:
        for parameter in training.model.parameters():
            nn.init.constant_(parameter, 0.1 if parameter.dim() > 1 else 0.0)
    return training


def counts(scale: float) -> Training:
    """Build a variational encoder of raw counts."""
    x = torch.poisson(400 * torch.rand(64, 16)) * scale

    def sample(code: Tensor) -> Tensor:
        mean, log_variance = code.chunk(2, 1)
        return torch.cat([mean + (log_variance / 2).exp(), mean], 1)

    model = Between(sample, 16)
    with torch.no_grad():
        model.encoder[2].get_parameter("weight")[8:] *= 400 if scale == 1 else 1
    return Training(model, x, x, {"loss": "mse", "optimizer": ADAM})


def generator(*, is_saturating: bool) -> Training:
    """Build a generator in front of a frozen discriminator that is sure of its fakes."""
    judge = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    with torch.no_grad():
        judge[2].get_parameter("bias").fill_(-20.0)
    judge.requires_grad_(False)
    made = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    net = nn.Sequential(made, judge, *([nn.Sigmoid()] if is_saturating else []))

    def saturating(output: Tensor, _target: Tensor) -> Tensor:
        return torch.log(1 - output).mean()

    def other(output: Tensor, _target: Tensor) -> Tensor:
        return functional.softplus(-output).mean()

    loss = saturating if is_saturating else other
    return Training(net, torch.randn(64, 16), torch.ones(64, 1), {"loss": loss, "optimizer": SGD})


def grouped(groups: int) -> Training:
    net = nn.Sequential(
        nn.Conv2d(1, 16, 2, 2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 2, 2),
        nn.GroupNorm(groups, 32),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    return Training(net, torch.randn(64, 1, 4, 4), torch.randint(0, 4, (64,)), {"optimizer": ADAM})


class Tied(nn.Module):
    """A language model whose head is its table."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.table = nn.Embedding(200, 64)
        nn.init.normal_(self.table.weight, std=std)
        self.mix = nn.Linear(64, 64)

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.linear(functional.layer_norm(self.mix(self.table(tokens)), (64,)), self.table.weight)


def language(std: float) -> Training:
    tokens = torch.randint(0, 200, (32, 8))
    return Training(Tied(std), tokens, tokens, {"optimizer": {"type": "adamw", "lr": 1e-2}})


class Listed(nn.Module):
    """Hidden layers in a list, or in a ModuleList."""

    def __init__(self, container: Callable[[list[nn.Module]], Any]) -> None:
        super().__init__()
        self.hidden = container([nn.Linear(16, 16) for _ in range(3)])
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = torch.relu(layer(x))
        out: Tensor = self.out(x)
        return out


def listed(container: Callable[[list[nn.Module]], Any]) -> Training:
    x = torch.randn(128, 16)
    return Training(Listed(container), x, (x @ torch.randn(16, 4)).argmax(1), {"optimizer": ADAM})


def flat(*, is_flat: bool) -> Training:
    training = values(nn.Identity(), bumpy, loss=functional.mse_loss)
    targets = training.targets[:, 0] if is_flat else training.targets
    return Training(training.model, training.inputs, targets, training.options)


def killed(rate: float) -> Training:
    """Train a network for some steps of Adam."""
    training = classes(nn.ReLU())
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    for _ in range(30):
        optimizer.zero_grad()
        functional.cross_entropy(net(training.inputs), training.targets).backward()
        optimizer.step()
    return Training(net, training.inputs, training.targets, {"optimizer": {"type": "adam", "lr": rate}})


class Quantised(nn.Module):
    """A codebook, with a straight-through gradient or none."""

    def __init__(self, *, is_straight: bool) -> None:
        super().__init__()
        self.encoder, self.codes, self.decoder = nn.Linear(16, 8), nn.Embedding(32, 8), nn.Linear(8, 16)
        self.is_straight = is_straight

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        code = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        used = z + (code - z).detach() if self.is_straight else code
        commitment = (code.detach() - z).square().mean() + (code - z.detach()).square().mean()
        out: Tensor = self.decoder(used)
        return torch.cat([out, commitment.expand(len(x), 1)], 1) if self.is_straight else out


def quantised(*, is_straight: bool) -> Training:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return functional.mse_loss(output[:, :16], target) + output[:, 16:].sum() / len(target)

    x = torch.randn(64, 16)
    return Training(Quantised(is_straight=is_straight), x, x, {"loss": loss, "optimizer": ADAM})


def terms(weight: float) -> Training:
    def loss(output: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {
            "equation": weight * output[:, :1].square().mean(),
            "boundary": (output[:, 1:2] - target).square().mean(),
        }

    x = torch.randn(128, 16)
    return Training(Between(torch.tanh), x, bumpy(x), {"loss": loss, "optimizer": ADAM})


def wide(std: float, *, is_summed: bool, lr: float) -> Training:
    net = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 1))
    for layer in (net[0], net[2]):
        nn.init.normal_(layer.get_parameter("weight"), std=std)
    x = torch.randn(128, 16)
    loss = nn.MSELoss(reduction="sum" if is_summed else "mean")
    return Training(net, x, bumpy(x), {"loss": loss, "optimizer": {"type": "sgd", "lr": lr}})


def fresh(mode: str) -> Training:
    net = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    training = classes()
    return Training(net, training.inputs, training.targets, {"mode": mode, "optimizer": ADAM})


def contradicting(*, is_same: bool) -> Training:
    training = values(nn.Identity(), bumpy, optimizer=ADAM)
    inputs = training.inputs[:1].repeat(128, 1) if is_same else training.inputs
    return Training(training.model, inputs, training.targets, training.options)


def stale(*, is_stale: bool) -> Training:
    training = classes()
    other = classes().model if is_stale else training.model
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-2)
    return Training(training.model, training.inputs, training.targets, {"optimizer": optimizer})


def signed(*, low: float) -> Training:
    training = values(nn.Identity(), lambda x: torch.where(x[:, :1] > 0, 1.0, low), optimizer=ADAM)
    return Training(training.model, training.inputs, training.targets, training.options | {"loss": "bce_with_logits"})
