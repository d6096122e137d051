"""Directional derivatives and Gauss-Newton forms, compared with closed forms and explicit matrices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gradinspect.engine.curvature.gauss_newton import (
    central_difference,
    forward_mode,
    output_direction,
    output_hessian_product,
)
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.parameters import ParameterEntry
from tests.support.networks.section_inputs import mlp, normal, scripted, section_input


def direction_of(s: SectionInput, seed: int = 7) -> dict[ParameterEntry, torch.Tensor]:
    return {
        entry: normal(*entry.tensor.shape, seed=seed + place).to(entry.tensor)
        for place, entry in enumerate(s.parameters)
    }


def test_the_output_of_a_linear_map_moves_by_the_direction_applied_to_the_input() -> None:
    x = normal(6, 4)
    s = section_input(mlp(4, 3), x, normal(6, 3, seed=1))
    v = direction_of(s)
    weight, bias = v.values()
    torch.testing.assert_close(output_direction(s, v), x @ weight.T + bias, rtol=1e-14, atol=1e-14)


def test_parameters_left_out_of_a_direction_do_not_move() -> None:
    x = normal(6, 4)
    s = section_input(mlp(4, 3), x, normal(6, 3, seed=1))
    bias = s.parameters.entries[1]
    step = normal(3, seed=2)
    torch.testing.assert_close(output_direction(s, {bias: step}), step.expand(6, 3), rtol=1e-14, atol=1e-14)


def test_a_torchscript_file_has_the_directional_derivative_of_its_eager_model() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    x, y = normal(9, 5), normal(9, 3, seed=1)
    eager, loaded = section_input(model, x, y), section_input(scripted(model), x, y)
    expected = output_direction(eager, direction_of(eager))
    assert forward_mode(loaded, direction_of(loaded)) is not None
    torch.testing.assert_close(output_direction(loaded, direction_of(loaded)), expected, rtol=1e-13, atol=1e-13)


class Lstm(nn.Module):
    """A recurrent layer and a head with one tensor as input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.cell(x)[0][:, -1])
        return output


@pytest.mark.parametrize("load", [lambda model: model, scripted], ids=["eager", "loaded"])
def test_a_fused_recurrent_layer_has_an_exact_derivative_in_float32(load: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model = load(Lstm())
    s = section_input(model, normal(3, 6, 4).float(), normal(3, 2, seed=1).float())
    v = direction_of(s)
    double = section_input(model.double(), normal(3, 6, 4), normal(3, 2, seed=1))
    exact = output_direction(double, direction_of(double))
    model.float()
    # 6 time steps of width 5: a few dozen roundings of float32, each under 6e-8 of the largest value.
    torch.testing.assert_close(output_direction(s, v).double(), exact, rtol=1e-5, atol=1e-5)


def test_central_differences_agree_with_forward_mode_within_their_truncation_error() -> None:
    x, y = normal(8, 5), normal(8, 3, seed=1)
    s = section_input(mlp(5, 8, 8, 3), x, y)
    v = direction_of(s)
    exact = forward_mode(s, v)
    assert exact is not None
    differenced = central_difference(s, v)
    # step 6e-6: truncation of the order of 4e-11, rounding of 1e-16/6e-6 = 4e-11.
    assert float((differenced - exact).norm() / exact.norm()) < 1e-9
    low = section_input(mlp(5, 8, 8, 3).float(), x.float(), y.float())
    error = (central_difference(low, direction_of(low)).double() - exact).norm() / exact.norm()
    assert float(error) < 3.4e-3


class Hidden(nn.Module):
    """Uses its weight through a plain attribute, which swapping the named parameter does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(3, 4))
        self.hidden = [self.weight]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.hidden[0].T)


def test_a_parameter_that_cannot_be_swapped_is_differentiated_by_differences() -> None:
    s = section_input(Hidden(), normal(6, 4), normal(6, 3, seed=1))
    v = direction_of(s)
    assert forward_mode(s, v) is None
    (weight,) = v.values()
    z = normal(6, 4) @ s.parameters.entries[0].tensor.detach().T
    exact = (1 - torch.tanh(z) ** 2) * (normal(6, 4) @ weight.T)
    torch.testing.assert_close(output_direction(s, v), exact, rtol=1e-8, atol=1e-8)


def test_directional_derivatives_leave_the_model_unchanged() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    s = section_input(model, normal(9, 5), normal(9, 3, seed=1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objects = dict(model.named_parameters())
    output_direction(s, direction_of(s))
    central_difference(s, direction_of(s))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if "running" not in name)
    assert all(objects[name] is parameter for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_output_hessian_of_cross_entropy_is_its_closed_form() -> None:
    s = section_input(mlp(4, 3), normal(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]), loss="cross_entropy")
    output, v = normal(6, 3, seed=3), normal(6, 3, seed=4)
    p = output.softmax(1)
    expected = (p * v - p * (p * v).sum(1, keepdim=True)) / 6
    torch.testing.assert_close(output_hessian_product(s, output, v), expected, rtol=1e-12, atol=1e-15)


def test_the_output_hessian_of_squared_error_is_two_over_the_number_of_values() -> None:
    s = section_input(mlp(4, 3), normal(6, 4), normal(6, 3, seed=1))
    v = normal(6, 3, seed=4)
    torch.testing.assert_close(output_hessian_product(s, normal(6, 3, seed=3), v), 2 * v / 18, rtol=1e-13, atol=0)


@pytest.mark.parametrize("loss", ["l1", "output_mean", "random_cotangent"])
def test_the_output_hessian_of_a_linear_loss_is_zero(loss: str) -> None:
    s = section_input(mlp(4, 3), normal(6, 4), normal(6, 3, seed=1), loss=loss)
    product = output_hessian_product(s, normal(6, 3, seed=3), normal(6, 3, seed=4))
    assert float(product.abs().max()) == 0.0


def test_forms_equal_those_of_the_explicit_gauss_newton_matrix() -> None:
    model = mlp(4, 5, 3)
    x, target = normal(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    s = section_input(model, x, target, loss="cross_entropy")
    names = [entry.name for entry in s.parameters]

    def outputs(values: dict[str, torch.Tensor]) -> torch.Tensor:
        output: torch.Tensor = torch.func.functional_call(model, values, (x,))
        return output

    values = {entry.name: entry.tensor.detach() for entry in s.parameters}
    parts = torch.func.jacrev(outputs)(values)
    J = torch.cat([parts[name].reshape(18, -1) for name in names], dim=1)
    p = outputs(values).softmax(1)
    H = torch.block_diag(*[(torch.diag(row) - torch.outer(row, row)) / 6 for row in p])
    u, v = direction_of(s, 7), direction_of(s, 70)
    flat_u, flat_v = (torch.cat([step.reshape(-1) for step in w.values()]) for w in (u, v))
    product = output_hessian_product(s, outputs(values), output_direction(s, v))
    for direction, steps in ((u, flat_u), (v, flat_v)):
        form = float((output_direction(s, direction) * product).sum())
        assert form == pytest.approx(float(steps @ J.T @ H @ J @ flat_v), rel=1e-12)
