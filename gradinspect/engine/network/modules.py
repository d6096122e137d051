"""Modules for specs that torch.nn lacks: residual and parallel branches, positions, permutations and means.

All can be scripted and traced. The batch is the first axis everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Sequential):
    """shortcut(x) + scale·layers(x); without a child called `shortcut` the skip connection is the identity."""

    def __init__(self, layers: dict[str, nn.Module], *, scale: float, shortcut: nn.Module | None) -> None:
        super().__init__()
        for name, module in layers.items():
            self.add_module(name, module)
        if shortcut is not None:
            self.add_module("shortcut", shortcut)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        skip = x
        y = x
        for name, module in self.named_children():
            if name == "shortcut":  # TorchScript unrolls this loop, and takes no conditional expression here
                skip = module(x)
            else:
                y = module(y)
        if self.scale != 1.0:
            y = y * self.scale
        return skip + y


class Concat(nn.Sequential):
    """Branches with one input, whose outputs are concatenated on `dim`."""

    def __init__(self, branches: list[nn.Module], *, dim: int) -> None:
        super().__init__(*branches)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for branch in self:
            outputs.append(branch(x))  # TorchScript unrolls a loop over modules, but no comprehension
        return torch.cat(outputs, self.dim)


class PositionalEmbedding(nn.Module):
    """A learned vector added at each position: x[:, t] + weight[t], initialised from N(0, 0.02²)."""

    def __init__(self, num_positions: int, embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_positions, embedding_dim))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        return x + self.weight[: x.size(1)]


class Permute(nn.Module):
    """torch.permute; `dims` includes the batch axis."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = list(dims)

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


class Mean(nn.Module):
    """The mean over one axis; axis 0 is the batch."""

    def __init__(self, dim: int, keepdim: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dim, self.keepdim)
