"""Statistics of the batch: closed forms, what does not count, and samples that contradict each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect import inspect
from gradinspect.contracts.report.setup import BatchTensor, Setup
from gradinspect.engine.first_order.batch_tensors import conflicting_samples


def setup_of(model: nn.Module, *args: Any, **options: Any) -> Setup:
    setup = inspect(model, *args, **options).setup
    assert setup is not None
    return setup


def measured(inputs: torch.Tensor, model: nn.Module | None = None) -> BatchTensor:
    model = model or nn.Linear(inputs.shape[-1], 3)
    return setup_of(model, inputs, torch.zeros(inputs.shape[0], dtype=torch.long)).tensors[0]


def test_mean_deviation_and_rms_of_each_feature_are_exact() -> None:
    inputs = torch.tensor([[1.0, 100.0], [3.0, 200.0]]).repeat(8, 1)
    tensor = measured(inputs)
    assert tensor.feature_axis == 1
    assert tensor.feature_means == (2.0, 150.0)
    assert tensor.feature_stds == (1.0, 50.0)
    assert tensor.largest_feature == 1
    assert tensor.largest_rms == pytest.approx(math.sqrt((100**2 + 200**2) / 2))
    assert (tensor.largest_offset, tensor.offset_feature) == (3.0, 1)
    assert tensor.layers == ("(root)",) or len(tensor.layers) == 1


def test_zeros_do_not_make_a_one_hot_input_small() -> None:
    tensor = measured(nn.functional.one_hot(torch.arange(16) % 5, 100).float())
    assert tensor.rms == pytest.approx(1.0)
    assert tensor.largest_rms == pytest.approx(1.0)
    assert tensor.smallest_rms is None


@pytest.mark.parametrize("low", [-math.inf, -1e9])
def test_an_additive_mask_is_recognised(low: float) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer((x + mask).softmax(1))
            return out

    mask = torch.zeros(16, 6)
    mask[:, 4:] = low
    setup = setup_of(Masked(), (torch.randn(16, 6), mask), torch.zeros(16, dtype=torch.long))
    assert [tensor.is_mask for tensor in setup.tensors if tensor.role == "input"] == [False, True]


def test_an_input_is_connected_to_the_layers_that_take_it_as_it_is() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.direct, self.scaled = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.direct(x.half().float()) + self.scaled(x / 255)
            return out

    tensor = measured(255 * torch.rand(16, 6), Two())
    assert tensor.layers == ("direct",)


def test_features_with_few_elements_have_no_statistics() -> None:
    assert measured(torch.randn(4, 6)).feature_axis is None


def test_equal_samples_with_other_targets_contradict() -> None:
    inputs = torch.randn(10, 4)
    inputs[1] = inputs[0]
    inputs[3] = inputs[2]
    targets = torch.zeros(10)
    targets[1] = 1.0  # 2 and 3 agree
    assert conflicting_samples([inputs], targets) == pytest.approx(0.2)


def test_discrete_inputs_repeat_by_nature() -> None:
    tokens = torch.zeros(10, 4, dtype=torch.long)
    assert conflicting_samples([tokens], torch.arange(10)) is None
    assert conflicting_samples([tokens.float()], torch.arange(10)) is None


def test_samples_that_differ_beyond_the_part_that_is_compared_do_not_contradict() -> None:
    inputs = torch.full((4, 70_000), 0.5)
    inputs[:, 1] = torch.arange(4.0)  # only every fourth element is compared at first
    assert conflicting_samples([inputs], torch.arange(4)) == 0.0
