"""TorchScript files for tests: healthy networks and hostile programs."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable

import torch
from torch import nn


class EndlessLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        step = 1
        while step > 0:
            step = 3 - step
        return x * self.weight


class EndlessSum(nn.Module):
    """Computes on tensors that are large enough for several threads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = torch.ones(1_000_000)
        while large[0] > 0:
            large = large * 1.0
        return x * self.weight


class HugeTensor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + torch.ones(68719476736).sum()


class Raises(nn.Module):
    """Raises the words that the kernel's refusal of a system call has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() > 0:
            raise ValueError("seek: Operation not permitted (1)")
        return x * self.weight


class ReadsAFile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + torch.from_file("/proc/version", False, 8, dtype=torch.uint8).sum()


class TurnsGradientsOff(nn.Module):
    """Leaves a global switch of its process changed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * self.weight
        torch.set_grad_enabled(False)
        return y


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.lstm(x)[0][:, -1])
        return output


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.encoder(x).mean(dim=1))
        return output


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 3)
    )


# A healthy model of each family, with the shape and dtype of one sample.
HEALTHY: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "mlp": (mlp, (4,), "float32"),
    "cnn": (cnn, (1, 8, 8), "float32"),
    "lstm": (Recurrent, (5, 4), "float32"),
    "transformer": (Transformer, (6, 16), "float32"),
    "half": (lambda: mlp().half(), (4,), "float16"),
    "double": (lambda: mlp().double(), (4,), "float64"),
}


def scripted(model: nn.Module) -> bytes:
    """Return the file that `torch.jit.save` writes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(model), file)
    return file.getvalue()


def deeply_nested() -> bytes:
    """Return a file whose code is nested so deeply that torch's parser overflows its stack."""
    whole, changed = zipfile.ZipFile(io.BytesIO(scripted(mlp()))), io.BytesIO()
    is_deep = False
    deep = b"    y = " + b"(" * 200_000 + b"1" + b")" * 200_000 + b"\n"
    with zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as file:
        for entry in whole.infolist():
            content = whole.read(entry)
            # A class that this process has scripted before gets a file of another name: container/___torch_mangle_3.py.
            if "/container" in entry.filename and entry.filename.endswith(".py"):
                assert b"    return " in content
                content = content.replace(b"    return ", deep + b"    return ", 1)
                is_deep = True
            file.writestr(entry.filename, content)
    assert is_deep, "the file has the code of a Sequential"
    return changed.getvalue()
