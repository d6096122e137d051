"""A real batch: handwritten digits from scikit-learn, as a safetensors file that an inspection can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from sklearn.datasets import load_digits
from torch import nn

SPEC = Path(__file__).with_name("digits_mlp.json")


def write_batch(path: Path, *, samples: int = 512) -> Path:
    """Write `x` (samples, 64), pixels in [0, 1], and `y` (samples,), the digits; returns `path`."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))[:samples]
    save_file(
        {"x": (digits.data[order] / 16).astype(np.float32), "y": digits.target[order].astype(np.int64)}, path
    )  # fmt: skip
    return path


def held_out_accuracy(code: str | None, *, epochs: int = 8) -> float:
    """Train the network of `SPEC` on three quarters of the digits, and return its accuracy on the others.

    Args:
        code: a prescription, run before training as it is printed; None trains with SGD at 0.1 as declared.
        epochs: over the training digits, in minibatches of 64.
    """
    digits = load_digits()
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(digits.target)))
    x, y = torch.from_numpy((digits.data / 16).astype(np.float32))[order], torch.from_numpy(digits.target)[order]
    cut = 3 * len(y) // 4
    torch.manual_seed(1)
    model = _network()
    scope: dict[str, Any] = {"model": model}  # Any: what the code defines
    if code is None:
        scope["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.1)
    else:
        exec(code, scope)
    prepare = scope.get("prepare", lambda inputs, targets: (inputs, targets))
    model, optimizer = scope["model"], scope["optimizer"]
    for _ in range(epochs):
        for rows in torch.randperm(cut).split(64):
            inputs, targets = prepare(x[rows], y[rows])
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        inputs, targets = prepare(x[cut:], y[cut:])
        return float((model(inputs).argmax(1) == targets).double().mean())


def _network() -> nn.Module:
    """Make the network of `SPEC` with plain torch."""
    layers: list[nn.Module] = []
    for size in (64, *[256] * 8):
        layers += [nn.Linear(size, 256), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Linear(256, 10))
    for name, parameter in model.named_parameters():
        nn.init.xavier_uniform_(parameter) if name.endswith("weight") else nn.init.zeros_(parameter)
    return model


if __name__ == "__main__":
    print(write_batch(Path("digits.safetensors")))
