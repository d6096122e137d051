"""Every field of `parameters[]` compared with its definition, computed from plain autograd's gradients."""

from __future__ import annotations

import copy
import math
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.rows import ParameterMeasurement
from tests.support.networks.inspected import ROUNDING, inspect, parameter, random

X, Y = random(40, 12, seed=1), torch.arange(40) % 4
SCALE = 2.0**-18  # a loss scale at which some gradients flush and others do not
# Filled by other sections (noise, curvature).
OF_SECTIONS = {"grad_snr", "noise_scale", "hessian_trace", "curvature_along_gradient", "top_eigenvalue"}
OPTIMIZERS: dict[str, tuple[dict[str, Any], Any]] = {
    "sgd": ({"type": "sgd", "lr": 0.3}, lambda p: torch.optim.SGD(p, lr=0.3)),
    "sgd_weight_decay": (
        {"type": "sgd", "lr": 0.3, "weight_decay": 0.1}, lambda p: torch.optim.SGD(p, lr=0.3, weight_decay=0.1),
    ),
    "momentum": (
        {"type": "sgd", "lr": 0.3, "momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9),
    ),
    "nesterov": (
        {"type": "sgd", "lr": 0.3, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "adam": ({"type": "adam", "lr": 0.01}, lambda p: torch.optim.Adam(p, lr=0.01)),
    "adam_coupled_decay": (
        {"type": "adam", "lr": 0.01, "weight_decay": 0.1, "eps": 1e-3},
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, eps=1e-3),
    ),
    "adamw": ({"type": "adamw", "lr": 0.01}, lambda p: torch.optim.AdamW(p, lr=0.01)),
    "adamw_decay": (
        {"type": "adamw", "lr": 0.01, "weight_decay": 0.3}, lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    ),
}  # fmt: skip


def network() -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4)).double()
    with torch.no_grad():
        model.get_parameter("2.bias")[:4] = -30.0  # four units are always off: their gradient rows are exactly zero
    return model


@cache
def gradients() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Map each name to weight and gradient."""
    model = network()
    functional.cross_entropy(model(X), Y).backward()
    return {name: (p.detach().numpy(), p.grad.numpy()) for name, p in model.named_parameters() if p.grad is not None}


@cache
def report() -> Report:
    return inspect(network(), X, Y, optimizer=OPTIMIZERS["sgd"][0],
                   precision={"intended": "float16", "loss_scale": SCALE})  # fmt: skip


def histogram(g: np.ndarray) -> dict[str, Any]:
    exponents = Counter(math.frexp(value)[1] - 1 for value in np.abs(g).ravel().tolist() if value)
    lowest, highest = min(exponents), max(exponents)
    return {
        "lowest": lowest, "counts": tuple(exponents[e] for e in range(lowest, highest + 1)), "below": 0, "above": 0,
        "zeros": int((g == 0).sum()), "sampled": False,
    }  # fmt: skip


def flushed(g: np.ndarray, dtype: torch.dtype) -> float:
    """Count non-zero scaled gradients that the conversion turns into zero."""
    scaled = torch.tensor(np.abs(g[g != 0])) * SCALE
    return float((scaled.to(dtype) == 0).double().mean())


def expected(field: str, name: str) -> Any:
    w, g = gradients()[name]
    size = np.abs(g)
    norm, weight_norm = float(np.sqrt((g**2).sum())), float(np.sqrt((w**2).sum()))
    levels = {"p01": 0.01, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
    return {
        "name": name, "aliases": (), "layer": name.split(".")[0], "shape": w.shape, "numel": w.size,
        "dtype": "float64", "status": "trained",
        "grad_norm": norm, "grad_rms": norm / math.sqrt(g.size), "grad_mean": float(g.mean()),
        "grad_std": float(g.std()), "grad_abs_max": float(size.max()), "grad_abs_mean": float(size.mean()),
        "grad_quantiles": {key: float(np.quantile(size, level)) for key, level in levels.items()},
        "log2_histogram": histogram(g), "zero_fraction": float((g == 0).mean()), "nan_count": 0, "inf_count": 0,
        "weight_norm": weight_norm, "weight_rms": weight_norm / math.sqrt(w.size), "weight_nonfinite_count": 0,
        "grad_to_weight": norm / weight_norm, "update_norm": 0.3 * norm, "update_to_weight": 0.3 * norm / weight_norm,
        "fp16_flush_fraction": flushed(g, torch.float16), "bf16_flush_fraction": flushed(g, torch.bfloat16),
    }[field]  # fmt: skip


@pytest.mark.parametrize("name", [f"{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")])
@pytest.mark.parametrize("field", [f for f in ParameterMeasurement.model_fields if f not in OF_SECTIONS])
def test_each_field_of_a_parameter_equals_its_definition(field: str, name: str) -> None:
    found, target = parameter(report(), name).model_dump()[field], expected(field, name)
    if isinstance(target, float) or field == "grad_quantiles":
        # The mean of the head's gradient is 0 up to rounding, relative to its largest element.
        assert found == pytest.approx(target, rel=ROUNDING, abs=ROUNDING * expected("grad_abs_max", name))
    else:
        assert found == target


def test_the_test_network_has_a_value_in_every_field() -> None:
    assert expected("zero_fraction", "2.weight") > 0.25
    assert 0 < expected("fp16_flush_fraction", "0.weight") < 1
    assert expected("log2_histogram", "2.weight")["zeros"] >= 80


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_update_is_the_first_step_that_torchs_optimizer_takes(name: str) -> None:
    request, make = OPTIMIZERS[name]
    report = inspect(network(), X, Y, optimizer=request)
    model = network()
    before = copy.deepcopy(model)
    functional.cross_entropy(model(X), Y).backward()
    make(model.parameters()).step()
    for (path, moved), still in zip(model.named_parameters(), before.parameters(), strict=True):
        row, step = parameter(report, path), float((moved - still).detach().norm())
        assert row.update_norm == pytest.approx(step, rel=1e-9)  # θ − (θ − Δθ) loses digits of Δθ
        assert row.update_to_weight == pytest.approx(step / float(still.detach().norm()), rel=1e-9)


class Parts(nn.Module):
    """A trained, a frozen, an unused and a dead parameter, and one under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.trained, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)
        self.unused, self.dead = nn.Linear(3, 3), nn.Linear(3, 3)
        self.again = nn.Linear(3, 3)
        self.again.weight = self.trained.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        y = self.again(torch.relu(self.frozen(self.trained(x)) + 1))
        out: torch.Tensor = y + 0.0 * self.dead(x)
        return out


def test_trained_frozen_unused_and_zero_parameters_are_distinguished() -> None:
    rows = {row.name: row for row in inspect(Parts(), random(5, 3, dtype=torch.float32), loss="mse").parameters}
    statuses = {name: row.status for name, row in rows.items()}
    assert statuses == {
        "trained.weight": "trained", "trained.bias": "trained", "frozen.weight": "frozen", "frozen.bias": "frozen",
        "unused.weight": "unused", "unused.bias": "unused", "dead.weight": "zero", "dead.bias": "zero",
        "again.bias": "trained",
    }  # fmt: skip
    assert rows["trained.weight"].aliases == ("again.weight",)
    assert rows["dead.weight"].grad_norm == 0.0
    assert rows["dead.weight"].zero_fraction == 1.0
    assert rows["dead.weight"].fp16_flush_fraction is None
    for name in ("frozen.weight", "unused.weight"):
        assert rows[name].grad_norm is None
        assert rows[name].weight_norm is not None


def test_a_tied_weights_gradient_is_the_sum_over_its_uses() -> None:
    model = Parts()
    x = random(5, 3, dtype=torch.float32)
    row = parameter(inspect(model, x, loss="output_mean"), "trained.weight")
    model(x).mean().backward()
    assert model.trained.weight.grad is not None
    assert row.grad_norm == pytest.approx(float(model.trained.weight.grad.norm()), rel=1e-5)  # float32


def test_the_gradient_of_two_parameter_objects_over_one_memory_is_their_sum() -> None:
    first, second = nn.Linear(4, 4, bias=False).double(), nn.Linear(4, 4, bias=False).double()
    second.weight = nn.Parameter(first.weight.detach())  # another object over the same memory
    model, x = nn.Sequential(first, nn.Tanh(), second), random(5, 4)
    model(x).sum().backward()
    assert first.weight.grad is not None
    assert second.weight.grad is not None
    expected = float((first.weight.grad + second.weight.grad).norm())
    report = inspect(model, x, loss=lambda output, _target: output.sum())
    row = parameter(report, "0.weight")
    assert row.aliases == ("2.weight",)
    assert row.grad_norm == pytest.approx(expected, rel=ROUNDING)


def test_nan_and_infinite_gradients_are_counted_and_blank_the_statistics() -> None:
    class Poisoned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Compute the output."""
            return self.weight * x

    poison = torch.tensor([[math.nan, math.inf, -math.inf, 0.0, 1.0, 2.0]])
    row = parameter(inspect(Poisoned(), poison, loss=lambda out, _t: out.sum()), "weight")
    assert (row.nan_count, row.inf_count, row.status) == (1, 2, "trained")
    assert (row.grad_norm, row.grad_mean, row.grad_quantiles, row.log2_histogram, row.grad_to_weight) == (None,) * 5
    assert row.zero_fraction == pytest.approx(1 / 6)


def test_a_weight_that_is_not_finite_is_counted() -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("0.weight")[0, :3] = math.nan
        model.get_parameter("0.weight")[1, 0] = math.inf
    row = parameter(inspect(model, X, Y), "0.weight")
    assert row.weight_nonfinite_count == 4
    assert row.weight_norm is None


def test_zero_initialised_parameters_have_no_ratio_to_their_weight() -> None:
    model = network()
    nn.init.zeros_(model.get_parameter("4.bias"))
    row = parameter(inspect(model, X, Y, optimizer={"type": "sgd"}), "4.bias")
    assert (row.weight_norm, row.grad_to_weight, row.update_to_weight) == (0.0, None, None)
    assert row.update_norm is not None


def test_large_gradients_are_described_by_a_sample_whose_size_is_reported() -> None:
    size = 200_000
    model = nn.Linear(size, 1, bias=False, dtype=torch.float64)
    x = random(1, size, seed=5)
    row = parameter(inspect(model, x, loss=lambda out, _t: out.sum()), "weight")
    assert row.log2_histogram is not None
    assert row.log2_histogram.sampled
    looked_at = sum(row.log2_histogram.counts) + row.log2_histogram.zeros + row.log2_histogram.below
    assert size / 16 < looked_at <= 16_384
    assert row.grad_norm == pytest.approx(float(x.norm()), rel=ROUNDING)
    assert row.grad_quantiles is not None
    for level, found in ((0.05, row.grad_quantiles.p05), (0.5, row.grad_quantiles.p50), (0.95, row.grad_quantiles.p95)):
        assert found is not None
        rank = float((x.abs() <= found).double().mean())
        error = math.sqrt(level * (1 - level) / looked_at)
        assert rank == pytest.approx(level, abs=4.9 * error)  # outside with a probability of 1e-6


def test_sparse_gradients_have_the_statistics_of_their_dense_form() -> None:
    def embedding(*, sparse: bool) -> nn.Sequential:
        torch.manual_seed(1)
        return nn.Sequential(nn.Embedding(50, 8, sparse=sparse), nn.Flatten(), nn.Linear(24, 2))

    tokens = torch.randint(0, 50, (6, 3), generator=torch.Generator().manual_seed(1))
    for optimizer in ({"type": "sgd", "weight_decay": 0.1}, {"type": "adam"}):
        dense, stored = (
            parameter(inspect(embedding(sparse=sparse), tokens, loss="output_mean", optimizer=optimizer), "0.weight")
            for sparse in (False, True)
        )
        for field in ("grad_norm", "grad_mean", "grad_std", "zero_fraction", "numel", "update_norm", "grad_abs_mean"):
            # float32 sums of 400 elements in two orders; the mean is small against its terms
            slack = 400 * 2.0**-24 * (dense.grad_abs_mean or 0.0)
            assert getattr(stored, field) == pytest.approx(getattr(dense, field), rel=1e-6, abs=slack), field
        assert stored.grad_quantiles == dense.grad_quantiles
        assert stored.log2_histogram == dense.log2_histogram
