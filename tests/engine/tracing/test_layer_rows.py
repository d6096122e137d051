"""Every field of `layers[]` compared with its definition, computed from plain autograd's tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.rows import LayerMeasurement
from tests.support.networks.inspected import ROUNDING, inspect, layer, random

NAMES = ["conv", "norm", "first", "second", "head"]
IMAGES, CLASSES = random(12, 3, 8, 8, seed=1), torch.arange(12) % 5


class Net(nn.Module):
    """A convolution, a norm and three linear layers, each followed by a different nonlinearity or by none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.first, self.second, self.head = nn.Linear(4 * 36, 30), nn.Linear(30, 20), nn.Linear(20, 5)
        with torch.no_grad():
            self.norm.bias[1] = -30.0  # one of four channels is always off
            self.first.weight.mul_(12.0)  # enough for some sigmoids to saturate
        self.double()

    def forward(self, x: torch.Tensor, seen: list[torch.Tensor] | None = None) -> torch.Tensor:
        z0 = self.conv(x)
        z1 = self.norm(z0)
        a1 = torch.relu(z1)
        z2 = self.first(a1.flatten(1))
        a2 = torch.sigmoid(z2)
        z3 = self.second(a2)
        a3 = torch.tanh(z3)
        z4: torch.Tensor = self.head(a3)
        if seen is not None:
            seen.extend([x, z0, z0, z1, a1, z2, a2, z3, a3, z4, z4])
        return z4


class Truth:
    """One layer call's tensors: input, z, φ(z), and their gradients."""

    def __init__(self, entered: torch.Tensor, z: torch.Tensor, a: torch.Tensor) -> None:
        assert z.grad is not None
        assert a.grad is not None
        self.entered, self.z, self.a = (t.detach().numpy() for t in (entered, z, a))
        self.delta, self.after = z.grad.numpy(), a.grad.numpy()
        slope = np.ones_like(self.z)
        if z is not a:
            function = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}[
                type(a.grad_fn).__name__.removesuffix("Backward0").lower()
            ]
            leaf = z.detach().requires_grad_()
            slope = torch.autograd.grad(function(leaf).sum(), leaf)[0].numpy()
        self.slope = slope


@cache
def truths() -> list[Truth]:
    model = Net()
    seen: list[torch.Tensor] = []
    output = model(IMAGES, seen)
    for tensor in seen[1:]:
        tensor.retain_grad()
    functional.cross_entropy(output, CLASSES).backward()
    entered = [seen[0], seen[1], seen[4], seen[6], seen[8]]
    pairs = [(seen[1], seen[2]), (seen[3], seen[4]), (seen[5], seen[6]), (seen[7], seen[8]), (seen[9], seen[10])]
    return [Truth(x, z, a) for x, (z, a) in zip(entered, pairs, strict=True)]


@cache
def report() -> Report:
    return inspect(Net(), IMAGES, CLASSES)


@cache
def gradients() -> list[np.ndarray]:
    model = Net()
    functional.cross_entropy(model(IMAGES), CLASSES).backward()
    layers = (getattr(model, name) for name in NAMES)
    return [np.concatenate([layer.weight.grad.numpy().ravel(), layer.bias.grad.numpy()]) for layer in layers]


def norm(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).sum()))


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def statistics(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": values.mean(), "std": values.std(), "rms": rms(values), "abs_max": np.abs(values).max(),
    }  # fmt: skip


def similarity(values: np.ndarray) -> float:
    rows = values.reshape(len(values), -1)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(len(unit)) for j in range(len(unit)) if i != j]
    return float(np.mean(pairs))


def dead_share(values: np.ndarray) -> float:
    units = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    return float(((units == 0).mean(axis=0) >= 0.99).mean())


def expected(field: str, place: int) -> Any:
    """Compute a field independently, by its definition."""
    all_truths = truths()
    own = all_truths[place]
    above = all_truths[place + 1] if place + 1 < len(all_truths) else None
    nonlinearity = [None, "relu", "sigmoid", "tanh", None][place]
    largest = {"sigmoid": 0.25, "tanh": 1.0}.get(nonlinearity or "")
    definitions: dict[str, Callable[[], Any]] = {
        "depth": lambda: place,
        "name": lambda: NAMES[place],
        "call": lambda: 0,
        "kind": lambda: ["Conv2d", "BatchNorm2d", "Linear", "Linear", "Linear"][place],
        "parameters": lambda: (f"{NAMES[place]}.weight", f"{NAMES[place]}.bias"),
        "output_shape": lambda: own.z.shape,
        "activation": lambda: statistics(own.a),
        "preactivation": lambda: statistics(own.z) if nonlinearity else None,
        "nonlinearity": lambda: nonlinearity,
        "joined_nonlinearity": lambda: None,
        "signal": lambda: {"norm": norm(own.delta), "rms": rms(own.delta)},
        "forward_gain": lambda: rms(own.a) / rms(own.entered),
        "backward_gain": lambda: norm(own.delta) / norm(above.delta) if above else None,
        "activation_gain": lambda: norm(own.delta) / norm(own.after) if above else None,
        "weight_gain": lambda: norm(own.after) / norm(above.delta) if above else None,
        "cumulative_backward_gain": lambda: norm(own.delta) / norm(all_truths[-1].delta),
        "grad_norm": lambda: norm(gradients()[place]),
        "dead_unit_fraction": lambda: dead_share(own.a),
        "saturated_fraction": lambda: float((own.slope < 0.05 * largest).mean()) if largest else None,
        "mean_squared_slope": lambda: float(np.square(own.slope).mean()) if nonlinearity else None,
        "sample_similarity": lambda: similarity(own.a),
        "nonfinite_count": lambda: 0,
        "predicted_chi1": lambda: predicted(place),
        "measured_chi1": lambda: (norm(own.delta) / norm(above.delta)) ** 2 if predicted(place) and above else None,
        "inputs": lambda: tuple({"name": NAMES[place - 1], "call": 0} for _ in range(min(place, 1))),
        "successors": lambda: tuple({"name": NAMES[place + 1], "call": 0} for _ in range(min(4 - place, 1))),
        "on_trunk": lambda: True,
        "normalised_scale": lambda: rms(own.z) if place == 0 else None,
        "gate_factor": lambda: None,
        "recurrence_calls": lambda: 0,
        "recurrence_gain": lambda: None,
        "opened": lambda: None,
    }
    return definitions[field]()


def predicted(place: int) -> float | None:
    """Compute σ_w²·E[φ′(√q Z)²] where an affine layer follows directly: after the sigmoid and the tanh."""
    weight = {1: "first", 2: "second", 3: "head"}.get(place)
    if weight is None:
        return None
    values = getattr(Net(), weight).weight.detach().numpy()
    z = np.linspace(-10, 10, 8001)
    density = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    at = torch.tensor(rms(truths()[place].z) * z, requires_grad=True)
    function = {1: torch.relu, 2: torch.sigmoid, 3: torch.tanh}[place]
    slope = torch.autograd.grad(function(at).sum(), at)[0].numpy()
    return float(values.shape[1] * values.var() * (density @ slope**2))


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("field", LayerMeasurement.model_fields)
def test_each_field_of_a_layer_equals_its_definition(field: str, place: int) -> None:
    found = layer(report(), NAMES[place]).model_dump()[field]
    target = expected(field, place)
    if field == "predicted_chi1" and target is not None:
        assert found == pytest.approx(target, rel=2e-3)  # two quadratures of one integral, each accurate to 1e-3
    elif isinstance(target, float | dict):
        assert found == pytest.approx(target, rel=ROUNDING, abs=ROUNDING)
    else:
        assert found == target


def test_the_test_network_has_a_value_in_every_field() -> None:
    assert [expected("dead_unit_fraction", place) for place in range(5)] == [0.0, 0.25, 0.0, 0.0, 0.0]
    assert 0.1 < expected("saturated_fraction", 2) < 0.9
    assert expected("predicted_chi1", 1) is not None
    assert all(expected("backward_gain", place) != pytest.approx(1.0, abs=0.05) for place in range(4))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_counted_and_blank_the_statistics(value: float) -> None:
    model = Net()
    with torch.no_grad():
        model.second.bias[3] = value
    row = layer(inspect(model, IMAGES, CLASSES), "second")
    assert row.nonfinite_count == 12  # one unit of twelve samples; tanh(±inf) is finite, but z is not
    assert row.preactivation is not None
    assert row.preactivation.rms is None


class ChangedInPlace(nn.Module):
    """Two linear layers, with an in-place change of the tensor between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 8).double(), nn.Linear(8, 4).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        h.add_(5.0)
        return self.second(h)  # type: ignore[no-any-return]  # a module's output


def test_an_input_changed_in_place_is_measured_again() -> None:
    model, x = ChangedInPlace(), random(7, 6)
    with torch.no_grad():
        entered = model.first(x) + 5.0
        left = model.second(entered)
    expected = float(left.square().mean().sqrt() / entered.square().mean().sqrt())
    report = inspect(model, x, loss=lambda output, _target: output.sum())
    assert layer(report, "second").forward_gain == pytest.approx(expected, rel=ROUNDING)
