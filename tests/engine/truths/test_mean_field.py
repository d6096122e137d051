"""Wide random nets compared with mean-field theory: the gain of one layer on the norm of the backward signal.

Each net is drawn from several seeds. The mean over seeds of a layer's squared gain is compared with χ1 by a t-test with
a false-alarm rate of 1e-4 per case, widened by 5/width, the order of the first correction for finite width
(Hanin and Nica 2019, "Products of many large random matrices and gradients in deep neural networks", theorem 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradinspect.contracts.report.report import Measurements
from gradinspect.engine.tracing.calls import ActivationCall
from gradinspect.engine.tracing.theory import mean_squared_slope
from tests.support.networks.inspected import as_job

SEEDS = 8
T_BOUND = 7.88  # Student's t with 7 degrees of freedom leaves 1e-4 outside ±7.88
WIDTH, SAMPLES = 256, 64

# E[f(Z)], Z ~ N(0, 1), by the trapezoidal rule, which converges geometrically for analytic f that vanish at the ends.
NODES = np.linspace(-10, 10, 4001)
NODE_WEIGHTS = np.exp(-(NODES**2) / 2)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()
Function = Callable[[np.ndarray], np.ndarray]


def sigmoid(z: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(-z))
    return result


FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "Tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "Sigmoid": (sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z))),
}


def expectation(function: Function, q: float) -> float:
    return float(NODE_WEIGHTS @ function(math.sqrt(q) * NODES))


def fixed_point(activation: str, weight_variance: float, bias_variance: float = 0.0) -> float:
    """Compute the pre-activation variance to which deep networks converge."""
    phi = FUNCTIONS[activation][0]
    q = 1.0
    for _ in range(500):
        q = weight_variance * expectation(lambda z: phi(z) ** 2, q) + bias_variance
    return q


def chi1(activation: str, weight_variance: float, bias_variance: float = 0.0) -> float:
    slope = FUNCTIONS[activation][1]
    return weight_variance * expectation(
        lambda z: slope(z) ** 2, fixed_point(activation, weight_variance, bias_variance)
    )


def spec(activation: str | None, depth: int, init: dict[str, Any] | None, *, norm: bool = False) -> dict[str, Any]:
    block: list[dict[str, Any]] = [{"type": "Linear", "in_features": WIDTH, "out_features": WIDTH}]
    block += [{"type": "BatchNorm1d"}] if norm else []
    block += [{"type": activation}] if activation else []
    document: dict[str, Any] = {
        "input": {"shape": [WIDTH], "dtype": "float32"},
        "layers": [{"repeat": depth, "layers": block}, {"type": "Linear", "in_features": WIDTH, "out_features": WIDTH}],
    }
    return document if init is None else document | {"init": {"weight": init, "bias": {"name": "zeros_"}}}


def reports(document: dict[str, Any], samples: int = SAMPLES, features: int = WIDTH) -> list[Measurements]:
    drawn = torch.Generator().manual_seed(99)
    inputs = torch.randn(samples, features, generator=drawn)
    return [as_job(spec=document, inputs={"x": inputs}, loss="random_cotangent", seed=seed) for seed in range(SEEDS)]


def squared_gains(found: list[Measurements], first: int, last: int, *, stride: int = 1) -> list[float]:
    """Return, for each seed, the mean squared norm gain of the layer calls between two depths."""
    means = []
    for report in found:
        start, end = report.layers[first].signal, report.layers[last].signal
        assert start is not None
        assert end is not None
        assert start.norm is not None
        assert end.norm is not None
        means.append((start.norm / end.norm) ** (2 * stride / (last - first)))
    return means


def assert_mean(values: list[float], expected: float) -> None:
    slack = T_BOUND * stdev(values) / math.sqrt(len(values)) + 5 / WIDTH * expected
    assert fmean(values) == pytest.approx(expected, abs=slack)
    assert slack < 0.2 * expected, "the test must be able to tell neighbouring theories apart"


def normal(variance: float) -> dict[str, Any]:
    return {"name": "normal_", "std": math.sqrt(variance / WIDTH)}


CASES: dict[str, tuple[str, dict[str, Any] | None, int, float]] = {
    # name: activation, init, depth at which the variance has settled, χ1
    "relu_he": ("ReLU", {"name": "kaiming_normal_", "nonlinearity": "relu"}, 1, 1.0),
    "relu_xavier": ("ReLU", {"name": "xavier_normal_"}, 1, 1 / 2),
    "relu_torch_default": ("ReLU", None, 4, 1 / 6),
    "tanh_torch_default": ("Tanh", None, 6, 1 / 3),
    "tanh_variance_4": ("Tanh", normal(4.0), 6, 1.362673),
    "sigmoid_xavier": ("Sigmoid", {"name": "xavier_normal_"}, 3, 0.055721),
    "sigmoid_torch_default": ("Sigmoid", None, 3, 0.020008),
    "sigmoid_variance_16": ("Sigmoid", normal(16.0), 4, 0.398879),
}


@pytest.mark.parametrize("name", CASES)
def test_the_squared_gain_of_a_layer_is_chi1(name: str) -> None:
    activation, init, settled, expected = CASES[name]
    found = reports(spec(activation, settled + 6, init))
    assert_mean(squared_gains(found, settled, settled + 6), expected)


def test_the_gain_per_layer_of_an_orthogonal_linear_net_is_1_up_to_rounding_of_its_weights() -> None:
    # A spec's weights are drawn in float32: the columns' inner products of 256 terms are off by at most 256·2⁻²⁴.
    document = spec(None, 10, {"name": "orthogonal_"})
    report = as_job(spec=document, loss="random_cotangent", precision={"compute": "float64"})
    assert [row.backward_gain for row in report.layers[:-1]] == pytest.approx([1.0] * 10, rel=256 * 2.0**-24)


def test_batch_normalisation_makes_the_signal_of_a_relu_net_grow_by_pi_over_pi_minus_1() -> None:
    found = reports(spec("ReLU", 7, {"name": "kaiming_normal_", "nonlinearity": "relu"}, norm=True), samples=256)
    # Two layer calls, the linear map and its norm, form one layer.
    assert_mean(squared_gains(found, 2, 12, stride=2), math.pi / (math.pi - 1))


def test_a_tanh_net_on_the_critical_line_keeps_the_signal() -> None:
    # σ_b² = 0.05 puts χ1 = 1 at σ_w² = 1.760955
    assert chi1("Tanh", 1.760955, 0.05) == pytest.approx(1.0, abs=1e-6)
    document = spec("Tanh", 14, normal(1.760955))
    document["init"]["bias"] = {"name": "normal_", "std": math.sqrt(0.05)}
    assert_mean(squared_gains(reports(document), 6, 14), 1.0)


@pytest.mark.parametrize(
    ("activation", "weight_variance", "expected"),
    [("Tanh", 4.0, 1.362673), ("Sigmoid", 1.0, 0.055721), ("Sigmoid", 16.0, 0.398879)],
)
def test_the_published_numbers_follow_from_the_fixed_point(
    activation: str, weight_variance: float, expected: float
) -> None:
    assert chi1(activation, weight_variance) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("q", [0.05, 1.0, 9.0])
@pytest.mark.parametrize("activation", FUNCTIONS)
def test_the_engines_mean_squared_slope_is_the_gaussian_integral(activation: str, q: float) -> None:
    model = nn.Sequential(nn.Linear(4, 4), getattr(nn, activation)(), nn.Linear(4, 4))
    call = first_activation(model)
    slope = FUNCTIONS[activation][1]
    # 4,096 nodes of equal probability: the error of the midpoint rule is below 1e-3, as its docstring states.
    assert mean_squared_slope(call, q) == pytest.approx(expectation(lambda z: slope(z) ** 2, q), rel=1e-3)


def first_activation(model: nn.Module) -> ActivationCall:
    from gradinspect.engine.network.parameters import ParameterIndex
    from gradinspect.engine.tracing.run_pass import TracedPass

    reading = TracedPass(model, ParameterIndex(model), [torch.randn(3, 4)], torch.sum).run()
    found = reading.calls[0].activation
    assert found is not None
    return found


def test_predicted_and_measured_chi1_agree_for_a_freshly_drawn_net() -> None:
    found = reports(spec("Tanh", 8, normal(2.25)))
    for place in range(3, 7):
        predicted = [report.layers[place].predicted_chi1 for report in found]
        measured = [report.layers[place].measured_chi1 for report in found]
        assert None not in predicted
        assert None not in measured
        assert_mean([m / p for m, p in zip(measured, predicted, strict=True) if m and p], 1.0)


def test_measured_chi1_does_not_depend_on_the_widths_of_the_two_layers() -> None:
    # Each unit of the narrower layer sums the signal of four times as many units above it, and σ_w² uses the fan-in.
    document = {
        "input": {"shape": [512], "dtype": "float32"},
        "layers": [
            {"type": "Linear", "in_features": 512, "out_features": 256},
            {"type": "Linear", "in_features": 256, "out_features": 1024},
        ],
        "init": {"weight": {"name": "normal_", "std": 1 / 16}},
    }  # fmt: skip
    drawn = [report.layers[0] for report in reports(document, features=512)]
    assert_mean([row.measured_chi1 or 0.0 for row in drawn], 1.0)
    # σ_w² = 256·Var W with 2¹⁸ weights: its relative standard error is √(2/2¹⁸) = 0.0028, and 4.5 of them leave 7e-6.
    assert [row.predicted_chi1 for row in drawn] == pytest.approx([1.0] * SEEDS, rel=4.5 * 0.0028)
