"""Small networks of many kinds, healthy or with a defect. Needs torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any  # the ignored result of torch.nn.init, and arguments of cells

import torch
from torch import nn
from torch.nn import functional

VOCABULARY = 65
Draw = Callable[[torch.Tensor], Any]


def he(weight: torch.Tensor) -> torch.Tensor:
    """Initialise as He et al. 2015 do for ReLU."""
    return nn.init.kaiming_normal_(weight, nonlinearity="relu")


def normal(std: float) -> Draw:
    """Return a draw from N(0, std²), whatever the layer's size."""
    return lambda weight: nn.init.normal_(weight, std=std)


def chain(
    activation: type[nn.Module] | None,
    draw: Draw | None,
    *,
    depth: int = 6,
    width: int = 128,
    norm: Callable[[int], nn.Module] | None = None,
    bias: Draw | None = None,
) -> nn.Sequential:
    """Build linear layers with norm and activation, and a head of 10 classes.

    Args:
        activation: class of the activation; None for a linear chain.
        draw: initialises the weights, with zero biases; None for torch's defaults.
        depth: number of layers before the head.
        width: features of each.
        norm: makes a norm from the width.
        bias: initialises the biases.
    """
    layers: list[nn.Module] = []
    for index in range(depth):
        linear = nn.Linear(64 if index == 0 else width, width)
        if draw is not None:
            draw(linear.weight)
            nn.init.zeros_(linear.bias)
        if bias is not None:
            with torch.no_grad():
                bias(linear.bias)
        layers.append(linear)
        if norm is not None:
            layers.append(norm(width))
        if activation is not None:
            layers.append(activation())
    head = nn.Linear(width, 10)
    nn.init.xavier_normal_(head.weight)
    return nn.Sequential(*layers, head)


class Residual(nn.Module):
    """after(shortcut(x) + branch(x)); shortcut and after are the identity unless set."""

    def __init__(self, *branch: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.shortcut = shortcut or nn.Identity()
        self.after = after or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        out: torch.Tensor = self.after(self.shortcut(x) + self.branch(x))
        return out


def resnet(*, zero_gamma: bool = False) -> nn.Sequential:
    """Build three stages of basic blocks, initialised as torchvision does."""

    def block(before: int, after: int, stride: int) -> Residual:
        last = nn.BatchNorm2d(after)
        if zero_gamma:
            nn.init.zeros_(last.weight)
        shortcut = None
        if before != after:
            shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        return Residual(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), last, shortcut=shortcut, after=nn.ReLU(),
        )  # fmt: skip

    stages = [block(8, 8, 1), block(8, 8, 1), block(8, 16, 2), block(16, 16, 1), block(16, 32, 2)]
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), *stages,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


class Attention(nn.Module):
    """Causal self-attention with separate query, key and value matrices."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        batch, time, width = x.shape
        q, k, v = (
            part(x).view(batch, time, self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        return out


class Transformer(nn.Module):
    """A pre-norm decoder with tied embeddings and all matrices from N(0, 0.02²), like GPT-2."""

    def __init__(self, vocabulary: int = VOCABULARY, width: int = 64, blocks: int = 3) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(32, width)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    Residual(nn.LayerNorm(width), Attention(width, 4)),
                    Residual(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)),
                )
                for _ in range(blocks)
            )
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        logits: torch.Tensor = self.head(self.norm(self.blocks(x)))
        return logits.mean(dim=1)


class Recurrent(nn.Module):
    """An embedding, one recurrent layer, and a head on its last step."""

    def __init__(self, cell: Callable[..., nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 32)
        self.cell = cell(32, 32, batch_first=True, **options)
        self.head = nn.Linear(32, 10)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        steps, _ = self.cell(self.tokens(tokens))
        out: torch.Tensor = self.head(steps[:, -1])
        return out


def residual_chain(blocks: int, draw: Draw) -> nn.Sequential:
    """Build residual branches without normalisation."""
    parts = [Residual(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(blocks)]
    model = nn.Sequential(nn.Linear(64, 64), *parts, nn.Linear(64, 10))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            draw(module.weight)
            nn.init.zeros_(module.bias)
    return model


class WithUnusedHead(nn.Module):
    """A chain with a second head that forward() does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.body = chain(nn.ReLU, he, depth=3)
        self.auxiliary = nn.Linear(128, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        out: torch.Tensor = self.body(x)
        return out


def changed(model: nn.Module, change: Callable[[nn.Module], None]) -> nn.Module:
    """Apply a change to a model's weights and return the model."""
    with torch.no_grad():
        change(model)
    return model
