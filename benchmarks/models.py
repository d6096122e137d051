"""Three models with their batches, drawn from a fixed seed, that all cost tables use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Subject:
    """A model, its batch, and the loss, for both the bare pass and the inspection."""

    name: str
    model: nn.Module
    inputs: torch.Tensor
    target: torch.Tensor

    def loss(self, output: torch.Tensor) -> torch.Tensor:
        """Return the mean cross entropy; the last axis holds the classes."""
        return functional.cross_entropy(output.flatten(0, -2), self.target.flatten())

    def bare(self) -> None:
        """Run one forward and backward pass as a training loop does."""
        self.model.zero_grad(set_to_none=True)
        self.loss(self.model(self.inputs)).backward()


class BasicBlock(nn.Module):
    """A residual block of two 3×3 convolutions (He et al. 2016)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Block(nn.Module):
    """A pre-norm decoder block: packed query, key and value, then a GELU network four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        batch, time, width = x.shape
        packed = self.qkv(self.ln1(x)).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)  # (batch, heads, time, width / heads)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        block: torch.Tensor = x + self.down(functional.gelu(self.up(self.ln2(x))))
        return block


class Gpt(nn.Module):
    """GPT-2's shape: learned positions, pre-norm blocks, output weights tied to the embedding."""

    def __init__(self, *, vocabulary: int, width: int, blocks: int, heads: int, context: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits


def mlp() -> Subject:
    """Return 30 × Linear(256) + ReLU and a head, with a batch of 128."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(30):
        linear = nn.Linear(256, 256)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(256, 10))
    return Subject("mlp", model, torch.randn(128, 256), torch.randint(0, 10, (128,)))


def resnet() -> Subject:
    """Return ResNet-18's stages with a batch of 32 images of 3×64×64."""
    torch.manual_seed(0)
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    blocks = [BasicBlock(before, after, 2 if before != after else 1) for before, after in pairwise(widths)]
    model = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 100),
    )  # fmt: skip
    return Subject("resnet", model, torch.randn(32, 3, 64, 64), torch.randint(0, 100, (32,)))


def gpt() -> Subject:
    """Return a decoder of 6 layers, width 384 and vocabulary 1,000, with a batch of 8 × 128 tokens."""
    torch.manual_seed(0)
    model = Gpt(vocabulary=1000, width=384, blocks=6, heads=6, context=128)
    return Subject("gpt", model, torch.randint(0, 1000, (8, 128)), torch.randint(0, 1000, (8, 128)))


MODELS: dict[str, Callable[[], Subject]] = {"mlp": mlp, "resnet": resnet, "gpt": gpt}
