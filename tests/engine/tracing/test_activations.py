"""Nonlinearities in any form: slopes compared with autograd's, and the saturated share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.report.rows import LayerMeasurement
from tests.support.networks.inspected import ROUNDING, as_job, assert_same, inspect, random, scripted

X = 3 * random(50, 8, seed=1)

# name: module, the name in the report, max φ′ where it saturates
ELEMENTWISE: dict[str, tuple[Callable[[], nn.Module], str, float | None]] = {
    "ELU": (lambda: nn.ELU(0.7), "elu", None),
    "Hardshrink": (lambda: nn.Hardshrink(0.8), "hardshrink", None),
    "Hardsigmoid": (nn.Hardsigmoid, "hardsigmoid", 1 / 6),
    "Hardtanh": (nn.Hardtanh, "hardtanh", 1.0),
    "Hardtanh from 0": (lambda: nn.Hardtanh(0.0, 2.0), "hardtanh", None),
    "Hardswish": (nn.Hardswish, "hardswish", None),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), "leaky_relu", None),
    "LogSigmoid": (nn.LogSigmoid, "log_sigmoid", None),
    "PReLU": (nn.PReLU, "prelu", None),
    "PReLU a channel": (lambda: nn.PReLU(8), "prelu", None),
    "ReLU": (nn.ReLU, "relu", None),
    "ReLU6": (nn.ReLU6, "hardtanh", None),
    "SELU": (nn.SELU, "elu", None),
    "CELU": (lambda: nn.CELU(0.6), "celu", None),
    "GELU": (nn.GELU, "gelu", None),
    "GELU tanh": (lambda: nn.GELU("tanh"), "gelu", None),
    "Sigmoid": (nn.Sigmoid, "sigmoid", 0.25),
    "SiLU": (nn.SiLU, "silu", None),
    "Mish": (nn.Mish, "mish", None),
    "Softplus": (lambda: nn.Softplus(2.0), "softplus", None),
    "Softshrink": (lambda: nn.Softshrink(0.8), "softshrink", None),
    "Softsign": (nn.Softsign, "softsign", 1.0),
    "Tanh": (nn.Tanh, "tanh", 1.0),
    "Tanhshrink": (nn.Tanhshrink, "tanhshrink", None),
    "Threshold": (lambda: nn.Threshold(0.5, -2.0), "threshold", None),
}
IN_PLACE: dict[str, Callable[[], nn.Module]] = {
    "ELU": lambda: nn.ELU(0.7, inplace=True), "Hardsigmoid": lambda: nn.Hardsigmoid(inplace=True),
    "Hardtanh": lambda: nn.Hardtanh(inplace=True), "Hardswish": lambda: nn.Hardswish(inplace=True),
    "LeakyReLU": lambda: nn.LeakyReLU(0.2, inplace=True), "ReLU": lambda: nn.ReLU(inplace=True),
    "ReLU6": lambda: nn.ReLU6(inplace=True), "SELU": lambda: nn.SELU(inplace=True),
    "CELU": lambda: nn.CELU(0.6, inplace=True), "SiLU": lambda: nn.SiLU(inplace=True),
    "Mish": lambda: nn.Mish(inplace=True), "Threshold": lambda: nn.Threshold(0.5, -2.0, inplace=True),
}  # fmt: skip


class Written(nn.Module):
    """A nonlinearity as a function."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        return self.function(z)


def around(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(8, 8), activation, nn.Linear(8, 3)).double()


def row_of(activation: nn.Module, **options: Any) -> LayerMeasurement:
    return inspect(around(activation), X, loss="random_cotangent", **options).layers[0]


def slopes(activation: nn.Module) -> torch.Tensor:
    """Compute φ′ at the pre-activations by autograd."""
    model = around(activation)
    z = model[0](X).detach().requires_grad_()
    output: torch.Tensor = torch.autograd.grad(model[1](z.clone()).sum(), z)[0]
    return output


def assert_reads(activation: nn.Module, name: str, largest: float | None) -> None:
    row, slope = row_of(activation), slopes(activation)
    assert row.nonlinearity == name
    # torch's derivative of CELU divides by alpha in float32
    rounding = 2.0**-23 if isinstance(activation, nn.CELU) else ROUNDING
    assert row.mean_squared_slope == pytest.approx(float(slope.square().mean()), rel=rounding)
    if largest is None:
        assert row.saturated_fraction is None
    else:
        assert row.saturated_fraction == float((slope < 0.05 * largest).double().mean())
        assert row.saturated_fraction > 0


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_mean_squared_slope_and_the_saturated_share_equal_autograds(name: str) -> None:
    make, shown, largest = ELEMENTWISE[name]
    assert_reads(make(), shown, largest)


@pytest.mark.parametrize("name", IN_PLACE)
def test_an_in_place_activation_gives_the_values_of_the_out_of_place_one(name: str) -> None:
    plain, in_place = row_of(ELEMENTWISE[name][0]()), row_of(IN_PLACE[name]())
    assert plain.nonlinearity == in_place.nonlinearity
    assert_same(plain, in_place, relative=2.0**-23 if name == "CELU" else ROUNDING)


@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if "RReLU" not in n])
def test_a_scripted_activation_gives_the_values_of_the_eager_one(name: str) -> None:
    model = around(ELEMENTWISE[name][0]())
    eager = inspect(model, X, loss="random_cotangent").layers[0]
    script = as_job(scripted(model), inputs={"x": X}, loss="random_cotangent").layers[0]
    assert script.nonlinearity == eager.nonlinearity
    assert script.mean_squared_slope == pytest.approx(eager.mean_squared_slope, rel=ROUNDING)
    assert script.saturated_fraction == eager.saturated_fraction
    assert script.activation_gain == pytest.approx(eager.activation_gain, rel=ROUNDING)


def test_the_slopes_drawn_by_rrelu_are_the_ones_measured() -> None:
    row = row_of(nn.RReLU(0.2, 0.4))
    assert row.nonlinearity == "rrelu"
    assert row.mean_squared_slope is not None
    share = float((around(nn.RReLU())[0](X) > 0).double().mean())
    # E[s²] for s uniform on [0.2, 0.4] is 0.28/3; the mean over ≥ 100 draws has a standard deviation under 0.004.
    assert row.mean_squared_slope == pytest.approx(share + (1 - share) * 0.28 / 3, abs=5 * 0.004)


class Rectify(torch.autograd.Function):
    """A custom autograd function."""

    @staticmethod
    def forward(context: Any, z: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(z)
        return z.clamp(min=0.0) * 2

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        (z,) = context.saved_tensors
        output: torch.Tensor = gradient * 2 * (z > 0)
        return output


WRITTEN: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "swish": (lambda z: z * torch.sigmoid(z), "sigmoid-mul"),
    "mish": (lambda z: z * torch.tanh(nn.functional.softplus(z)), "softplus-tanh-mul"),
    "sine": (torch.sin, "sin"),
    "sine of a multiple": (lambda z: torch.sin(3 * z), "mul-sin"),
    "gaussian": (lambda z: torch.exp(-z.square()), "pow-neg-exp"),
    "clamp": (lambda z: z.clamp(min=-0.5, max=2.0), "clamp"),
    "absolute": (torch.abs, "abs"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_nonlinearity_of_several_operations_is_measured_from_the_signals_on_both_sides(name: str) -> None:
    function, shown = WRITTEN[name]
    row, slope = row_of(Written(function)), slopes(Written(function))
    assert row.nonlinearity == shown
    # δ_z/δ_φ(z) by element: a few more roundings than autograd's product
    assert row.mean_squared_slope == pytest.approx(float(slope.square().mean()), rel=1e-10)
    assert row.activation_gain is not None
    assert row.weight_gain is not None
    assert row.backward_gain == pytest.approx(row.activation_gain * row.weight_gain, rel=ROUNDING)


def test_a_custom_autograd_function_has_a_gain_but_no_slope() -> None:
    row = row_of(Written(Rectify.apply))
    assert row.nonlinearity == "Rectify"
    assert row.mean_squared_slope is None
    assert row.activation_gain is not None
    assert 0 < row.activation_gain < 2


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: nn.Softmax(-1), "softmax"),
        (lambda: nn.LogSoftmax(-1), "log_softmax"),
        (lambda: nn.Softmin(-1), "softmin"),
    ],
)
def test_a_nonlinearity_that_mixes_elements_has_a_gain_but_no_slope(make: Callable[[], nn.Module], name: str) -> None:
    row = row_of(make())
    assert (row.nonlinearity, row.mean_squared_slope, row.saturated_fraction) == (name, None, None)
    assert row.activation_gain is not None


def test_a_gate_that_halves_its_input_has_a_gain() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(8, 8), nn.GLU(), nn.Linear(4, 3)).double()
    row = inspect(model, X, loss="random_cotangent").layers[0]
    assert (row.nonlinearity, row.output_shape) == ("glu", (50, 8))
    assert row.activation_gain is not None


def test_a_scaled_output_is_not_a_nonlinearity() -> None:
    row = row_of(Written(lambda z: 0.5 * z + 1))
    assert (row.nonlinearity, row.mean_squared_slope) == (None, None)


def test_an_output_that_also_bypasses_its_activation_has_no_activation_gain() -> None:
    row = row_of(Written(lambda z: torch.cat([torch.relu(z), z.roll(1, 0)], 0)[:50]))
    assert row.nonlinearity is None


def test_slopes_of_large_outputs_are_sampled_and_reported_as_such() -> None:
    model = nn.Sequential(nn.Linear(16, 2000), nn.Tanh(), nn.Linear(2000, 2)).double()
    x = 2 * random(100, 16, seed=3)
    report = inspect(model, x, loss="random_cotangent")
    assert report.environment.sampled_layers == 1
    z = model[0](x).detach()
    slope = (1 - torch.tanh(z) ** 2).square()
    row = report.layers[0]
    # A sixteenth of 200,000 elements is drawn: five standard errors of independent draws, widened by the correlation
    # within units, because runs of at most 16 neighbours are drawn together.
    error = float(slope.std()) / math.sqrt(200_000 / 4 / 16)
    assert row.mean_squared_slope == pytest.approx(float(slope.mean()), abs=5 * error)
    assert row.activation is not None
    assert row.activation.rms == pytest.approx(float(torch.tanh(z).square().mean().sqrt()), rel=ROUNDING)
