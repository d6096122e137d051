"""Small models with every kind of layer that per-sample gradients have a formula for, and some without one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from gradinspect.testing.networks import Transformer
from tests.support.networks.section_inputs import mlp, normal


class Attending(nn.Module):
    """Self-attention, whose packed projection works with time before the samples."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.attention(x, x, x)[0].mean(1))
        return output


class Placed(nn.Module):
    """Learned positions, a learned scale, a class token for each sample, and a table whose rows are used repeatedly."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 4, padding_idx=2)
        self.positions = nn.Parameter(normal(9, 4, seed=5))
        self.scale = nn.Parameter(normal(4, seed=6))
        self.token = nn.Parameter(normal(1, 1, 4, seed=7))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.tokens(x) + self.positions[: x.shape[1]]
        rows = torch.cat([self.token.expand(x.shape[0], 1, 4), rows], 1) * self.scale
        output: torch.Tensor = self.head(torch.tanh(rows).mean(1))
        return output


class Recurrent(nn.Module):
    """Two recurrent layers and a head on the last step."""

    def __init__(self, cell: type[nn.RNN | nn.GRU | nn.LSTM]) -> None:
        super().__init__()
        self.cell, self.head = cell(4, 5, num_layers=2, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.cell(x)[0][:, -1])
        return output


class Centred(nn.Module):
    """Subtracts the batch's mean: samples mix without a normalisation layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0)


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=4, dilation=2, padding=2, bias=False), nn.GroupNorm(3, 12), nn.ReLU(),
        nn.Conv2d(12, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def flat(*layers: nn.Module) -> nn.Module:
    """Build the layers with a head of three outputs over all their output."""
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


def time_in_the_batch() -> nn.Module:
    return flat(
        nn.Flatten(0, 1), nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 2), nn.GroupNorm(2, 2), nn.Unflatten(0, (-1, 5))
    )


IMAGES, SEQUENCES, ROWS = normal(6, 3, 8, 8), normal(6, 5, 4), normal(6, 4)
TOKENS = torch.randint(0, 7, (6, 5), generator=torch.Generator().manual_seed(3))
TRANSFORMER = "tied transformer"
Made = tuple[Callable[[], nn.Module], torch.Tensor]
MODELS: dict[str, Made] = {
    "mlp": (lambda: mlp(4, 8, 8, 3), ROWS),
    "cnn with group norm": (cnn, IMAGES),
    "lstm": (lambda: Recurrent(nn.LSTM), SEQUENCES),
    "gru": (lambda: Recurrent(nn.GRU), SEQUENCES),
    TRANSFORMER: (lambda: Transformer(vocabulary=7, width=8, blocks=2), TOKENS),
    "attention": (lambda: Attending(4), SEQUENCES),
    "attention, as many steps as samples": (lambda: Attending(4), normal(6, 6, 4)),
    "positions, scale, token, table": (Placed, TOKENS),
    "linear without bias over time": (lambda: flat(nn.Linear(4, 8, bias=False), nn.Tanh()), SEQUENCES),
    "long sequences": (lambda: flat(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)), normal(6, 40, 4)),
    "conv1d and prelu": (lambda: flat(nn.Conv1d(5, 6, 3, stride=2), nn.PReLU(6)), SEQUENCES),
    "conv3d": (lambda: flat(nn.Conv3d(1, 2, (2, 3, 2), padding=(1, 0, 1)), nn.Tanh()), normal(6, 1, 2, 5, 4)),
    "transposed": (
        lambda: flat(nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1), nn.Tanh(), nn.AvgPool2d(6)), IMAGES
    ),
    "transposed in groups": (
        lambda: flat(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.AvgPool2d(8)), IMAGES
    ),
    "instance norm": (lambda: flat(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Tanh()), IMAGES),
    "layer norm over two axes": (lambda: flat(nn.LayerNorm((5, 4))), SEQUENCES),
    "rms norm": (lambda: flat(nn.Linear(4, 4), nn.RMSNorm(4)), SEQUENCES),
    "weight norm": (lambda: flat(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Tanh()), ROWS),
    "bilinear": (lambda: Squared(), ROWS),
    "repeated layer": (lambda: flat(*([nn.Linear(4, 4), nn.Tanh()] * 3)), ROWS),
    "time in the batch": (time_in_the_batch, SEQUENCES),
}  # fmt: skip


class Squared(nn.Module):
    """A bilinear form of the input with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.form = nn.Bilinear(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.form(x, x)
        return output


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, torch.Tensor]:
    """Build a model in training mode with its inputs."""
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model = make().to(dtype)
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    with torch.no_grad():
        model(inputs)  # lazy layers take their sizes
        if isinstance(model, Transformer):
            for parameter in model.parameters():
                parameter.mul_(10)  # attention weights that are far from uniform
    return model, inputs
