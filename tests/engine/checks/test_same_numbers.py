"""One network has the same numbers in every form: eager, scripted, traced, as a spec and through a job.

In float64 all forms run the same kernels in the same order, so results differ by rounding at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.document import from_python
from gradinspect.contracts.report.report import Measurements, Report
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.engine.network.build import build
from tests.support.networks.inspected import as_job, assert_same, inspect, random, scripted, traced

FEATURES, IMAGES, SEQUENCE = random(12, 8), random(6, 3, 8, 8), random(5, 4, 8)
TOKENS = torch.arange(20).view(5, 4) % 11


class Last(nn.Module):
    """A recurrent layer and a head on its last step."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.cell(x)[0][:, -1])
        return out


class Stepped(nn.Module):
    """A recurrent cell, called once for each time step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(8, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.size(0), 6, dtype=x.dtype)
        for step in range(x.size(1)):
            h = self.cell(x[:, step], h)
        out: torch.Tensor = self.head(h)
        return out


class Tied(nn.Module):
    """An embedding and a head with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.tanh(self.mix(self.embed(tokens))))
        return out


def frozen() -> nn.Module:
    model = mlp()
    model[2].requires_grad_(False)
    return model


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 10), nn.Sigmoid(), nn.Linear(10, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * 36, 3),
    )  # fmt: skip


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3))


MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "mlp": (mlp, FEATURES),
    "convolutions and batch norm": (convolutions, IMAGES),
    "lstm": (lambda: Last(nn.LSTM(8, 6, batch_first=True)), SEQUENCE),
    "gru": (lambda: Last(nn.GRU(8, 6, batch_first=True)), SEQUENCE),
    "gru cell": (Stepped, SEQUENCE),
    "transformer encoder": (encoder, SEQUENCE),
    "tied": (Tied, TOKENS),
    "frozen": (frozen, FEATURES),
}


def made(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(7)
    make, inputs = MODELS[name]
    return make().to(dtype), inputs.to(dtype) if inputs.is_floating_point() else inputs


def assert_same_rows(one: Report | Measurements, other: Report | Measurements, relative: float = 1e-10) -> None:
    assert [(r.name, r.call, r.kind, r.nonlinearity, r.parameters, r.output_shape) for r in one.layers] == [
        (r.name, r.call, r.kind, r.nonlinearity, r.parameters, r.output_shape) for r in other.layers
    ]
    assert [(r.name, r.aliases, r.layer, r.status, r.dtype) for r in one.parameters] == [
        (r.name, r.aliases, r.layer, r.status, r.dtype) for r in other.parameters
    ]
    assert_same(one.layers, other.layers, relative=relative, absolute=relative * 1e-3)
    # A bias before a norm has a gradient of rounding errors only, and so are its histogram and shares.
    noise = {row.name for row in one.parameters if (row.grad_norm or 0) < 1e-12 and row.status == "trained"}
    rows, others = ([r for r in report.parameters if r.name not in noise] for report in (one, other))
    assert_same(rows, others, relative=relative, absolute=relative * 1e-3)
    assert one.summary.loss == pytest.approx(other.summary.loss, rel=relative)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", MODELS)
def test_a_scripted_model_has_the_numbers_of_the_eager_one(name: str, mode: Any) -> None:
    model, inputs = made(name)
    eager = inspect(model, inputs, loss="random_cotangent", mode=mode)
    assert_same_rows(eager, inspect(scripted(model), inputs, loss="random_cotangent", mode=mode))


@pytest.mark.parametrize("name", MODELS)
def test_a_traced_model_has_the_numbers_of_the_eager_one(name: str) -> None:
    model, inputs = made(name)
    eager = inspect(model, inputs, loss="random_cotangent")
    assert_same_rows(eager, inspect(traced(model, inputs), inputs, loss="random_cotangent"))


@pytest.mark.parametrize("name", MODELS)
def test_a_job_with_a_file_has_the_numbers_of_a_local_inspection(name: str) -> None:
    model, inputs = made(name)
    eager = inspect(model, inputs, loss="random_cotangent", optimizer={"type": "adamw"})
    job = as_job(scripted(model), inputs={"x": inputs}, loss="random_cotangent", optimizer={"type": "adamw"})
    assert_same_rows(eager, job)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["mlp", "transformer encoder", "tied"])
def test_half_precision_has_the_same_numbers_eager_and_scripted(name: str, dtype: torch.dtype) -> None:
    model, inputs = made(name, dtype)
    eager = inspect(model, inputs, loss="random_cotangent")
    assert_same_rows(eager, inspect(scripted(model), inputs, loss="random_cotangent"))


SPECS: dict[str, tuple[dict[str, Any], torch.Tensor]] = {
    "mlp": (
        {"input": {"shape": [8]}, "layers": [
            {"type": "Linear", "out_features": 10}, {"type": "ReLU"}, {"type": "Linear", "out_features": 10},
            {"type": "Sigmoid"}, {"type": "Linear", "out_features": 3}]},
        FEATURES,
    ),
    "convolutions": (
        {"input": {"shape": [3, 8, 8]}, "layers": [
            {"type": "Conv2d", "out_channels": 4, "kernel_size": 3}, {"type": "BatchNorm2d"}, {"type": "ReLU"},
            {"type": "Residual", "layers": [{"type": "Conv2d", "out_channels": 4, "kernel_size": 3, "padding": 1}]},
            {"type": "Flatten"}, {"type": "Linear", "out_features": 3}]},
        IMAGES,
    ),
    "recurrent": (
        {"input": {"shape": [4, 8]}, "layers": [
            {"type": "GRU", "hidden_size": 6, "batch_first": True, "output": "last"},
            {"type": "Linear", "out_features": 3}]},
        SEQUENCE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_has_the_numbers_of_its_module(name: str) -> None:
    document, inputs = SPECS[name]
    module = build(from_python(ModelSpec, document), seed=3, dtype=torch.float64)
    eager = inspect(module, inputs, loss="random_cotangent", seed=3)
    options: dict[str, Any] = {"loss": "random_cotangent", "seed": 3, "precision": {"compute": "float64"}}
    assert_same_rows(eager, inspect(document, inputs, **options))
    assert_same_rows(eager, as_job(spec=document, inputs={"x": inputs}, **options))
    assert_same_rows(eager, inspect(scripted(module), inputs, loss="random_cotangent", seed=3))


def test_a_scripted_model_has_the_same_numbers_in_later_inspections() -> None:
    model, inputs = made("mlp")
    script = scripted(model)
    first = inspect(script, inputs, loss="random_cotangent")
    for _ in range(3):
        assert_same_rows(first, inspect(script, inputs, loss="random_cotangent"), relative=1e-15)
