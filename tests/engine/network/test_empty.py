"""Models and batches with tensors of zero elements."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import gradinspect
from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.arrays.statistics import row_moments


class WithEmptyParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.empty = nn.Linear(4, 3), nn.Parameter(torch.empty(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.linear(x) + self.empty.sum()
        return output


def with_a_width_of_zero() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 3))


@pytest.mark.parametrize("make", [WithEmptyParameter, with_a_width_of_zero])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_parameter_without_elements_has_a_row(make: Callable[[], nn.Module]) -> None:
    model = make()
    report = gradinspect.inspect(model, torch.randn(8, 4), torch.arange(8) % 3)
    (empty, *_) = [row for row in report.parameters if row.numel == 0]
    assert empty.grad_norm in (0.0, None)
    assert report.summary.total_grad_norm is not None


def test_a_target_without_elements_is_an_error() -> None:
    with pytest.raises(InspectionError, match="holds no element") as raised:
        gradinspect.inspect(nn.Linear(4, 3), torch.randn(0, 4), torch.randint(3, (0,)))
    assert raised.value.code == "data_mismatch"


def test_sums_over_rows_without_elements_are_zero() -> None:
    (moments, _) = row_moments(torch.empty(2, 0).numpy())
    assert (moments.numel, moments.square_total, moments.abs_max, moments.nonzero) == (0, 0.0, 0.0, 0)
