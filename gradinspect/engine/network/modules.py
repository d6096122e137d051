"""Modules that a spec needs and torch.nn lacks: a shortcut around layers, branches side by side, and what moves axes.

All are written so that torch.jit.script and torch.jit.trace take them. The batch is the first axis everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Sequential):
    """shortcut(x) + scale·layers(x); the child called `shortcut`, if there is one, stands on the skip connection."""

    def __init__(self, layers: dict[str, nn.Module], *, scale: float, shortcut: nn.Module | None) -> None:
        super().__init__()
        for name, module in layers.items():
            self.add_module(name, module)
        if shortcut is not None:
            self.add_module("shortcut", shortcut)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        kept = x
        y = x
        for name, module in self.named_children():
            if name == "shortcut":  # TorchScript unrolls this loop; both sides stay statements
                kept = module(x)
            else:
                y = module(y)
        if self.scale != 1.0:
            y = y * self.scale
        return kept + y


class Concat(nn.Sequential):
    """Every branch gets the same input; the outputs are joined on `dim`."""

    def __init__(self, branches: list[nn.Module], *, dim: int) -> None:
        super().__init__(*branches)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for branch in self:
            outputs.append(branch(x))  # TorchScript unrolls the loop over modules, not a comprehension
        return torch.cat(outputs, self.dim)


class PositionalEmbedding(nn.Module):
    """Adds a learned vector for each position: x[:, t] + weight[t]. Starts from N(0, 0.02²)."""

    def __init__(self, num_positions: int, embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_positions, embedding_dim))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        return x + self.weight[: x.size(1)]


class Permute(nn.Module):
    """torch.permute; `dims` counts the batch axis."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = list(dims)

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


class Mean(nn.Module):
    """The mean over one axis; `dim` counts the batch axis."""

    def __init__(self, dim: int, keepdim: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dim, self.keepdim)
