"""Facts about activation functions, compared with the functions of torch."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import nn

from gradinspect.contracts.nonlinearities import BY_NAME, NONLINEARITIES, Nonlinearity, script_operators
from gradinspect.engine.tracing.activations import ACTIVATIONS

ARGUMENTS: dict[str, tuple[object, ...]] = {
    "Threshold": (0.0, 0.0), "Softmax": (-1,), "LogSoftmax": (-1,), "Softmin": (-1,),
}  # fmt: skip
GRID = torch.linspace(-12, 12, 24_001, dtype=torch.float64)  # holds 0
every = pytest.mark.parametrize("record", NONLINEARITIES, ids=lambda record: record.name)
elementwise = pytest.mark.parametrize(
    "record", [record for record in NONLINEARITIES if record.is_elementwise], ids=lambda record: record.name
)


def module(record: Nonlinearity) -> nn.Module:
    name = record.layers[0].name
    return getattr(nn, name)(*ARGUMENTS.get(name, ())).double()  # type: ignore[no-any-return]  # by name


def slope(record: Nonlinearity, z: torch.Tensor) -> torch.Tensor:
    z = z.clone().requires_grad_()
    (found,) = torch.autograd.grad(module(record)(z).sum(), z)
    return found


@elementwise
def test_a_function_is_zero_at_zero_where_its_record_says_so(record: Nonlinearity) -> None:
    assert (module(record)(torch.zeros(1, dtype=torch.float64)).item() == 0) == record.is_zero_at_zero


@elementwise
def test_a_hard_zero_is_an_interval_of_exact_zeros(record: Nonlinearity) -> None:
    near = GRID[GRID.abs() < 5]  # further out smooth functions underflow
    values = nn.ReLU6()(near) if record.name == "hardtanh" else module(record)(near)  # hardtanh from 0 on
    zeros = int((values == 0).sum())
    assert (zeros > 100) == record.is_hard_zero


@elementwise
def test_a_rectifier_has_slope_zero_and_one(record: Nonlinearity) -> None:
    away = GRID[GRID != 0]
    is_step = torch.equal(slope(record, away), (away > 0).double())
    assert is_step == record.is_rectifier


@elementwise
def test_scaling_the_input_of_a_homogeneous_function_scales_its_output(record: Nonlinearity) -> None:
    if record.has_tensor_argument:
        assert not record.is_positively_homogeneous  # its arguments are not numbers
        return
    if record.name == "threshold":
        assert not record.is_positively_homogeneous  # another threshold or value breaks it
        return
    function = module(record)
    assert torch.allclose(function(3 * GRID), 3 * function(GRID)) == record.is_positively_homogeneous


@elementwise
def test_the_largest_slope_of_a_saturating_function_is_its_maximum(record: Nonlinearity) -> None:
    steep = slope(record, GRID)
    is_saturating = bool(steep[0].abs() < 0.05 * steep.max() and steep[-1].abs() < 0.05 * steep.max())
    assert is_saturating == (record.largest_slope is not None)
    if record.largest_slope is not None:
        assert steep.max().item() == pytest.approx(record.largest_slope, rel=1e-3)


@elementwise
def test_the_gain_of_a_balanced_function_is_one_over_its_slope(record: Nonlinearity) -> None:
    if record.balanced_slope == 1.0 or record.has_tensor_argument:
        return
    density = torch.exp(-GRID.square() / 2) / math.sqrt(2 * math.pi)
    step = float(GRID[1] - GRID[0])
    expected = math.sqrt(float((slope(record, GRID).square() * density).sum()) * step)
    assert record.balanced_slope == pytest.approx(expected, abs=1e-3)


@every
def test_a_function_of_one_operation_has_the_node_of_its_record(record: Nonlinearity) -> None:
    z = torch.randn(3, 4, requires_grad=True)
    made = module(record).float()(z)
    assert made.grad_fn is not None
    if record.node is not None:
        assert made.grad_fn.name() == record.node


@every
def test_only_element_wise_operations_have_a_slope(record: Nonlinearity) -> None:
    if len(record.operations) == 1:
        assert (ACTIVATIONS[record.operations[0]].kernel is not None) == record.is_elementwise


@every
def test_the_classes_of_a_record_are_in_torch_with_its_arguments(record: Nonlinearity) -> None:
    for layer in record.layers:
        accepted = set(inspect.signature(getattr(nn, layer.name)).parameters) - {"args", "kwargs"}
        assert ("inplace" in accepted) == layer.has_inplace
        assert layer.has_written_spec or accepted <= {"inplace"}


def test_script_operators_are_known_to_torch() -> None:
    known = {schema.name for schema in torch._C._jit_get_all_schemas()}
    assert {f"aten::{name}" for name in script_operators()} <= known
    in_place = {f"{record.operations[0]}_" for record in NONLINEARITIES if len(record.operations) == 1}
    assert {name for name in in_place if f"aten::{name}" in known} <= script_operators()


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(NONLINEARITIES)
