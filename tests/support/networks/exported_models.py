"""Small networks of many kinds for exported programs, and the program that exports them.

`python -m tests.support.networks.exported_models FOLDER` writes one .pt2 file each. Exporting loads torch's compiler,
so tests do it in a process apart, once for all.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

Tensors = Any  # tensors in tuples, lists and dicts


@dataclass(frozen=True)
class Exported:
    """One network and what it is exported with.

    Attributes:
        build: makes it; its parameters are drawn from seed 0.
        inputs: positional arguments, drawn from seed 1.
        keywords: likewise.
        dynamic: `dynamic_shapes` of the export.
        mode: in which it is exported.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensors, ...]]
    keywords: Callable[[], dict[str, Tensors]] = field(default=dict)
    dynamic: Callable[[], Any] = field(default=lambda: None)
    mode: str = "train"

    def model(self) -> nn.Module:
        """Return the network in its mode."""
        torch.manual_seed(0)
        return self.build().train(self.mode == "train")

    def example(self) -> tuple[tuple[Tensors, ...], dict[str, Tensors]]:
        """Return the arguments that it is exported with."""
        torch.manual_seed(1)
        return self.inputs(), self.keywords()


class ConvNet(nn.Module):
    """Convolutions, batch normalisation and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.norm(self.stem(x)))
        h = h + self.block(h)
        return self.head(self.pool(h).flatten(1))  # type: ignore[no-any-return]


class Tagger(nn.Module):
    """A bidirectional LSTM over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)
        self.head = nn.Linear(10, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        return self.head(states)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Two layers of a transformer encoder with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 8)
        self.positions = nn.Parameter(torch.randn(6, 8) * 0.02)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        h = self.embedding(tokens) + self.positions
        return self.head(self.layers(h).mean(1))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """A language model whose head shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        self.hidden = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 9)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.hidden(self.embedding(tokens))[0])  # type: ignore[no-any-return]


class Counting(nn.Module):
    """Buffers that change in each call, one of them not persistent, and a constant that is no buffer."""

    calls: torch.Tensor
    average: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("average", torch.ones(4), persistent=False)
        self.scale = torch.tensor([1.0, 2.0, 0.5, 1.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x)) * self.scale
        self.calls.add_(1)
        self.average.mul_(0.9).add_(h.detach().mean(0) * 0.1)
        return self.second(h / (1 + self.average.abs()))  # type: ignore[no-any-return]


class Structured(nn.Module):
    """Dicts and lists in and out, an argument by keyword, one that is None and one that is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 6)
        self.right = nn.Linear(3, 6)
        self.head = nn.Linear(6, 2)

    def forward(
        self, batch: dict[str, torch.Tensor], *, mask: torch.Tensor, bias: None = None, power: int = 2
    ) -> dict[str, Tensors]:
        h = torch.relu(self.left(batch["a"])) + self.right(batch["b"]) ** power
        if bias is not None:
            h = h + bias
        h = h * mask.unsqueeze(-1)
        return {"logits": self.head(h), "hidden": [h, h.mean()]}


class Regions(nn.Module):
    """Parts without gradients, a branch on the data, and sizes that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            gate = torch.sigmoid(self.first(x))
        h = self.first(x) * gate
        if torch.compiler.is_exporting():
            (h,) = torch.cond(x.sum() > 0, lambda t: (t.tanh(),), lambda t: (t.sin(),), (h,))
        else:  # outside an export, torch.cond would compile
            h = h.tanh() if x.sum() > 0 else h.sin()
        count, width = h.shape
        h = torch.cat([h, h.new_ones(count, width * 2 - 4)], dim=1)
        return self.second(h.reshape(count * 2, -1).reshape(count, width * 2))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Attention with a causal mask, dropout and a normalised residual."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.gate = nn.Linear(8, 16)
        self.out = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.triu(torch.full((x.shape[1], x.shape[1]), float("-inf")), diagonal=1)
        h = x + self.attend(x, x, x, attn_mask=mask, need_weights=False)[0]
        gate, value = self.gate(self.norm(h)).chunk(2, dim=-1)
        return self.out(torch.nn.functional.silu(gate) * value)  # type: ignore[no-any-return]


class Borrowing(nn.Module):
    """A layer that is never called: its weight and bias are given to a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.second = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(torch.nn.functional.linear(x, self.first.weight, self.first.bias))
        return self.second(h)  # type: ignore[no-any-return]


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.25), nn.LayerNorm(8), nn.Linear(8, 3)
    )


def _tokens(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape)


def _batch(name: str, low: int = 2, high: int = 64) -> dict[str, Any]:
    return {name: {0: torch.export.Dim("batch", min=low, max=high)}}


EXPORTED: dict[str, Exported] = {
    "mlp": Exported(_mlp, lambda: (torch.randn(4, 6),)),
    "mlp_eval": Exported(_mlp, lambda: (torch.randn(4, 6),), mode="eval"),
    "mlp_dynamic": Exported(
        _mlp, lambda: (torch.randn(4, 6),), dynamic=lambda: ({0: torch.export.Dim("batch", min=2, max=64)},)
    ),
    "conv": Exported(ConvNet, lambda: (torch.randn(4, 3, 6, 6),), dynamic=lambda: _batch("x")),
    "conv_eval": Exported(ConvNet, lambda: (torch.randn(4, 3, 6, 6),), mode="eval", dynamic=lambda: _batch("x")),
    "tagger": Exported(Tagger, lambda: (_tokens(11, 4, 5),), dynamic=lambda: _batch("tokens")),
    "encoder": Exported(Encoder, lambda: (_tokens(13, 4, 6),)),
    "encoder_eval": Exported(Encoder, lambda: (_tokens(13, 4, 6),), mode="eval"),
    "tied": Exported(Tied, lambda: (_tokens(9, 3, 5),)),
    "counting": Exported(Counting, lambda: (torch.randn(5, 4),)),
    "structured": Exported(
        Structured,
        lambda: ({"a": torch.randn(4, 4), "b": torch.randn(4, 3)},),
        lambda: {"mask": torch.ones(4), "bias": None, "power": 2},
    ),
    "regions": Exported(
        Regions,
        lambda: (torch.randn(4, 4),),
        dynamic=lambda: {"x": {0: 2 * torch.export.Dim("half", min=1, max=30)}},
    ),
    "borrowing": Exported(Borrowing, lambda: (torch.randn(4, 4),)),
    "attention": Exported(Attention, lambda: (torch.randn(3, 5, 8),)),
}


def export(name: str, path: Path) -> None:
    """Write one network as an exported program."""
    case = EXPORTED[name]
    positional, keywords = case.example()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(case.model(), positional, keywords, dynamic_shapes=case.dynamic())
        torch.export.save(program, path)


def main(folder: Path) -> None:
    """Write all networks."""
    for name in EXPORTED:
        export(name, folder / f"{name}.pt2")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
