"""Nets with closed-form gradients: linear chains, centred sigmoids, uniform logits, linear recurrences."""

from __future__ import annotations

import math
from functools import reduce
from itertools import pairwise

import pytest
import torch
from torch import nn

from tests.support.networks.inspected import (
    ROUNDING,
    inspect,
    layer,
    linear_chain,
    output_sum,
    parameter,
    random,
    squared_error,
)

WIDTHS = [5, 7, 4, 6, 3]
X, T = random(9, 5, seed=1), random(9, 3, seed=2)
WEIGHTS = [random(after, before, seed=3 + i) for i, (before, after) in enumerate(pairwise(WIDTHS))]


def product(matrices: list[torch.Tensor], size: int) -> torch.Tensor:
    return reduce(torch.matmul, matrices, torch.eye(size, dtype=torch.float64))


def error() -> torch.Tensor:
    """Compute R, the gradient of the loss with respect to the output."""
    return (X @ product([w.T for w in WEIGHTS], 5) - T) / len(X)


@pytest.mark.parametrize("index", range(4))
def test_a_deep_linear_nets_gradient_is_the_product_of_the_other_factors(index: int) -> None:
    # dL/dW_l = (W_L…W_{l+1})ᵀ Rᵀ (X W_1ᵀ…W_{l-1}ᵀ)
    after = product(WEIGHTS[index + 1 :][::-1], 3 if index == 3 else WIDTHS[-1])
    before = X @ product([w.T for w in WEIGHTS[:index]], 5)
    gradient = after.T @ error().T @ before
    row = parameter(inspect(linear_chain(*WEIGHTS), X, T, loss=squared_error), f"{index}.weight")
    assert row.grad_norm == pytest.approx(float(gradient.norm()), rel=ROUNDING)
    assert row.grad_mean == pytest.approx(float(gradient.mean()), rel=ROUNDING, abs=ROUNDING * float(gradient.norm()))
    assert row.grad_abs_max == pytest.approx(float(gradient.abs().max()), rel=ROUNDING)


@pytest.mark.parametrize("index", range(4))
def test_a_deep_linear_nets_signal_is_the_error_times_the_later_weights(index: int) -> None:
    signal = error() @ product(WEIGHTS[index + 1 :][::-1], WIDTHS[-1])
    row = layer(inspect(linear_chain(*WEIGHTS), X, T, loss=squared_error), str(index))
    assert row.signal is not None
    assert row.signal.norm == pytest.approx(float(signal.norm()), rel=ROUNDING)
    assert row.signal.rms == pytest.approx(float(signal.norm()) / math.sqrt(signal.numel()), rel=ROUNDING)
    last = float(error().norm())
    assert row.cumulative_backward_gain == pytest.approx(float(signal.norm()) / last, rel=ROUNDING)


@pytest.mark.parametrize("activation", [None, nn.ReLU, nn.LeakyReLU])
def test_weight_times_gradient_is_equal_for_all_layers_of_a_homogeneous_chain(
    activation: type[nn.Module] | None,
) -> None:
    model = linear_chain(*WEIGHTS, activation=activation)
    report = inspect(model, X, T, loss=squared_error)
    check = next(check for check in report.self_checks if check.name == "balance_identity")
    assert check.status == "passed"
    squared_error(model(X), T).backward()
    products = [float((w.detach() * w.grad).sum()) for w in model.parameters() if w.grad is not None]
    assert products == pytest.approx([products[0]] * 4, rel=1e-9)  # the identity itself, by plain autograd


def test_each_of_ten_centred_sigmoids_shrinks_the_signal_to_exactly_a_quarter() -> None:
    model = nn.Sequential()
    for index in range(10):
        linear = nn.Linear(1, 1, dtype=torch.float64)
        nn.init.ones_(linear.weight)
        nn.init.constant_(linear.bias, 0.0 if index == 0 else -0.5)
        model.extend([linear, nn.Sigmoid()])
    report = inspect(model, torch.zeros(1, 1, dtype=torch.float64), loss=output_sum)
    assert [row.signal.norm for row in report.layers if row.signal is not None] == [4.0**-n for n in range(10, 0, -1)]
    assert parameter(report, "0.bias").grad_norm == 9.5367431640625e-07
    assert [row.activation_gain for row in report.layers] == [0.25] * 10
    assert [row.weight_gain for row in report.layers[:-1]] == [1.0] * 9


def test_orthogonal_linear_layers_keep_the_signal_exactly() -> None:
    weights = [torch.linalg.qr(random(12, 12, seed=index))[0] for index in range(8)]
    report = inspect(linear_chain(*weights), random(4, 12, seed=20), random(4, 12, seed=21), loss=squared_error)
    assert [row.backward_gain for row in report.layers[:-1]] == pytest.approx([1.0] * 7, rel=ROUNDING)
    assert [row.forward_gain for row in report.layers] == pytest.approx([1.0] * 8, rel=ROUNDING)


@pytest.mark.parametrize(("samples", "classes"), [(32, 10), (7, 3), (128, 1000)])
def test_uniform_logits_have_a_loss_of_ln_k_and_its_gradient(samples: int, classes: int) -> None:
    head = nn.Linear(6, classes, dtype=torch.float64)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    targets = torch.arange(samples) % classes
    report = inspect(nn.Sequential(head), random(samples, 6), targets, loss="cross_entropy")
    assert report.summary.loss == pytest.approx(math.log(classes), rel=ROUNDING)
    assert report.summary.expected_initial_loss == pytest.approx(math.log(classes), rel=ROUNDING)
    signal = report.layers[0].signal
    assert signal is not None
    assert signal.norm == pytest.approx(math.sqrt((1 - 1 / classes) / samples), rel=ROUNDING)


class Unrolled(nn.Module):
    """h_t = W·h_{t−1}, T times the same layer."""

    def __init__(self, weight: torch.Tensor, steps: int) -> None:
        super().__init__()
        self.step = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        self.step.weight = nn.Parameter(weight)
        self.steps = steps

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        for _ in range(self.steps):
            h = self.step(h)
        return h


@pytest.mark.parametrize("weight", [0.5, 0.9, 1.25])
def test_a_scalar_recurrence_multiplies_the_signal_by_its_weight_at_every_step(weight: float) -> None:
    model = Unrolled(torch.full((1, 1), weight, dtype=torch.float64), 20)
    report = inspect(model, torch.ones(1, 1, dtype=torch.float64), loss=output_sum)
    assert [row.call for row in report.layers] == list(range(20))
    signals = [row.signal.norm for row in report.layers if row.signal is not None]
    assert signals == pytest.approx([weight ** (19 - step) for step in range(20)], rel=ROUNDING)
    # dL/dw = Σ_t w^(T−1−t)·h_t = T·w^(T−1), the sum over all calls of the one shared weight
    assert parameter(report, "step.weight").grad_norm == pytest.approx(20 * weight**19, rel=ROUNDING)


def test_an_orthogonal_recurrence_keeps_the_signal_through_time() -> None:
    weight = torch.linalg.qr(random(16, 16))[0]
    report = inspect(Unrolled(weight, 50), random(4, 16, seed=1), random(4, 16, seed=2), loss=squared_error)
    signals = [row.signal.norm for row in report.layers if row.signal is not None]
    assert signals == pytest.approx([signals[-1]] * 50, rel=ROUNDING)
