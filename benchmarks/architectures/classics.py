"""Networks of the literature that need torch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from benchmarks.architectures.architecture import CLASSES, Architecture, Builder, classes


class Recurrent(nn.Module):
    """A recurrent layer with a head."""

    def __init__(self, layer: nn.Module, width: int, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(width, 5)
        self.read = read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        logits: torch.Tensor = self.head(self.read(self.layer(x)[0]))
        return logits


def recurrent(kind: Callable[..., nn.Module], *, is_bidirectional: bool = False, layers: int = 1) -> Architecture:
    layer = kind(8, 32, num_layers=layers, bidirectional=is_bidirectional, batch_first=True)
    width = 64 if is_bidirectional else 32
    return Architecture(
        Recurrent(layer, width, lambda states: states[:, -1]), (torch.randn(16, 30, 8),), classes(16, 5)
    )


def weighted_tagger() -> Architecture:
    weights = torch.exp(-torch.arange(30.0) / 3)
    return Architecture(
        Recurrent(nn.GRU(8, 32, batch_first=True), 32, lambda states: states), (torch.randn(16, 30, 8),),
        torch.randint(0, 5, (16, 30)),
        lambda logits, target: (
            functional.cross_entropy(logits.movedim(-1, 1), target, reduction="none") * weights
        ).mean(),
    )  # fmt: skip


class Siren(nn.Module):
    """Sines of 30 times a linear layer, drawn as in Sitzmann et al. 2020."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, width), *(nn.Linear(width, width) for _ in range(3))])
        self.head = nn.Linear(width, 3)
        bound = (6 / width) ** 0.5 / 30
        for index, layer in enumerate([*self.layers, self.head]):
            limit = 0.5 if index == 0 else bound
            nn.init.uniform_(layer.weight, -limit, limit)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        output: torch.Tensor = self.head(x)
        return output


class Siamese(nn.Module):
    """Two views through one encoder, compared by their distance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 1)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        logit: torch.Tensor = self.head((self.encoder(left) - self.encoder(right)).abs())
        return logit


class Dlrm(nn.Module):
    """Embeddings and dense features that meet in products (Naumov et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(50, 16) for _ in range(4))
        self.bottom = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(26, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        x = self.bottom(dense)
        vectors = torch.stack([x, *(table(sparse[:, index]) for index, table in enumerate(self.tables))], 1)
        rows, columns = torch.tril_indices(5, 5, -1)
        products = (vectors @ vectors.transpose(1, 2))[:, rows, columns]
        logit: torch.Tensor = self.top(torch.cat([x, products], 1))
        return logit


class ConvMixer(nn.Sequential):
    """Depthwise and pointwise convolutions (Trockman and Kolter 2022)."""

    def __init__(self, width: int = 64, depth: int = 8) -> None:
        class Residual(nn.Sequential):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                output: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]  # torch leaves it untyped
                return output + x

        def after(convolution: nn.Module) -> nn.Sequential:
            return nn.Sequential(convolution, nn.GELU(), nn.BatchNorm2d(width))

        super().__init__(
            after(nn.Conv2d(3, width, 4, 4)),
            *(
                nn.Sequential(
                    Residual(after(nn.Conv2d(width, width, 5, groups=width, padding=2))),
                    after(nn.Conv2d(width, width, 1)),
                )
                for _ in range(depth)
            ),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES),
        )  # fmt: skip


def perceptron(activation: type[nn.Module], *, is_normalised: bool = False) -> Architecture:
    parts: list[nn.Module] = []
    for _ in range(6):
        layer = nn.Linear(32, 32)
        if activation is nn.ReLU:
            nn.init.kaiming_normal_(layer.weight)
        else:
            nn.init.xavier_normal_(layer.weight, gain=5 / 3)
        parts += [layer, *([nn.BatchNorm1d(32)] if is_normalised else []), activation()]
    return Architecture(nn.Sequential(*parts, nn.Linear(32, CLASSES)), (torch.randn(64, 32),), classes(64))


def lenet() -> Architecture:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip
    return Architecture(model, (torch.randn(16, 1, 28, 28),), classes(16))


def transformer(*, is_norm_first: bool) -> Architecture:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=is_norm_first)
    encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(320, CLASSES))
    return Architecture(model, (torch.randn(16, 10, 32),), classes(16))


def siamese() -> Architecture:
    pair = (torch.randn(32, 8), torch.randn(32, 8))
    return Architecture(Siamese(), pair, torch.randint(0, 2, (32, 1)).float(), "bce_with_logits")


def dlrm() -> Architecture:
    inputs = (torch.randn(32, 13), torch.randint(0, 50, (32, 4)))
    return Architecture(Dlrm(), inputs, torch.randint(0, 2, (32, 1)).float(), "bce_with_logits")


CLASSICS: Mapping[str, Builder] = {
    "relu_he": partial(perceptron, nn.ReLU),
    "tanh_xavier": partial(perceptron, nn.Tanh),
    "relu_batch_norm": partial(perceptron, nn.ReLU, is_normalised=True),
    "lenet": lenet,
    "convmixer": lambda: Architecture(ConvMixer(), (torch.randn(8, 3, 32, 32),), classes(8)),
    "transformer_pre_norm": partial(transformer, is_norm_first=True),
    "transformer_post_norm": partial(transformer, is_norm_first=False),
    "rnn": partial(recurrent, nn.RNN),
    "lstm": partial(recurrent, nn.LSTM),
    "gru": partial(recurrent, nn.GRU),
    "bidirectional_gru": partial(recurrent, nn.GRU, is_bidirectional=True, layers=2),
    "bidirectional_lstm": partial(recurrent, nn.LSTM, is_bidirectional=True),
    "weighted_tagger": weighted_tagger,
    "siren": lambda: Architecture(Siren(), (torch.rand(256, 2) * 2 - 1,), torch.rand(256, 3), "mse"),
    "siamese": siamese,
    "dlrm": dlrm,
}
