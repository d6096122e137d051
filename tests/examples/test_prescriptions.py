"""Networks that users tried, each prescription followed literally: paste the code, train, look at held-out digits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from gradinspect import Report, inspect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SGD = {"type": "sgd", "lr": 0.1}
BUDGET = {"steps": 2000, "seconds": 120.0}


def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits", Path(__file__).parents[2] / "examples" / "digits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digits(*, images: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(3))
    x = torch.tensor(data.data, dtype=torch.float32)[order] / 16
    return (x.view(-1, 1, 8, 8) if images else x), torch.tensor(data.target)[order]


def followed(model: nn.Module, report: Report, x: torch.Tensor, y: torch.Tensor, *, epochs: int = 15) -> float:
    """Paste the printed code, train on all but 400 digits and return the accuracy on those."""
    assert report.prescription is not None
    assert report.prescription.code is not None, report.prescription.reason
    scope: dict[str, Any] = {"model": model}
    exec(report.prescription.code, scope)
    prepare = scope.get("prepare", lambda inputs, targets: (inputs, targets))
    for _ in range(epochs):
        for rows in torch.randperm(len(y) - 400).split(64):
            inputs, targets = prepare(x[rows], y[rows])
            scope["optimizer"].zero_grad()
            nn.functional.cross_entropy(scope["model"](inputs), targets).backward()
            scope["optimizer"].step()
    with torch.no_grad():
        inputs, targets = prepare(x[-400:], y[-400:])
        return float((scope["model"](inputs).argmax(1) == targets).double().mean())


def test_the_network_of_the_readme_trains_after_its_prescription() -> None:
    module = demo()
    x, y = digits()
    report = inspect(module._network(), x[:256], y[:256], optimizer=SGD, trial=BUDGET)
    assert report.prescription is not None
    assert module.held_out_accuracy(None) < 0.2
    assert module.held_out_accuracy(report.prescription.code) > 0.8


def deep_tanh() -> nn.Module:
    layers = [layer for index in range(30) for layer in (nn.Linear(64, 64), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def test_a_thirty_layer_tanh_network_trains_after_its_prescription() -> None:
    x, y = digits()
    torch.manual_seed(0)
    report = inspect(deep_tanh(), x[:128], y[:128], optimizer=SGD, trial=BUDGET)
    torch.manual_seed(11)
    assert followed(deep_tanh(), report, x, y) > 0.8


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(1 if index == 0 else 16, 16, 3, padding=1) for index in range(12)])
        self.head = nn.Linear(16 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return torch.as_tensor(self.head(x.flatten(1)))


def test_a_network_with_functional_sigmoids_trains_after_its_prescription() -> None:
    x, y = digits(images=True)
    torch.manual_seed(0)
    report = inspect(Functional(), x[:64], y[:64], optimizer=SGD, trial=BUDGET)
    torch.manual_seed(12)
    assert followed(Functional(), report, x, y, epochs=6) > 0.8


def test_a_network_of_1500_layers_is_called_what_it_is() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(1500) for layer in (nn.Linear(32, 32), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(32, 10))
    report = inspect(model, torch.randn(32, 32), torch.randint(0, 10, (32,)), trial={"steps": 100, "seconds": 60.0})
    assert "vanishing_signal" in {finding.rule for finding in report.findings}
    assert report.verdict == "fail"
    assert report.prescription is not None
    assert (report.prescription.outcome == "found") == (report.prescription.code is not None)
