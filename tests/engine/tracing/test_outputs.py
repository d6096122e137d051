"""The statistics of an output from one pass over it: equal to those of its parts, and a rectifier's slope."""

from __future__ import annotations

import math

import pytest
import torch

from gradinspect.engine.arrays.statistics import amplitude
from gradinspect.engine.arrays.units import ACTIVATION_SAMPLE, OutputLayout
from gradinspect.engine.tracing.outputs import read_output
from tests.support.networks.inspected import random


def slope_of_rectified(output: torch.Tensor) -> float:
    found = read_output(output, OutputLayout(tuple(output.shape), output.shape[0], is_rectified=True)).slope
    assert found is not None
    assert found.saturated_fraction is None
    return found.mean_square


@pytest.mark.parametrize("shape", [(7,), (12, 5), (300, 20), (6, 4, 3)])
def test_a_rectifiers_slope_is_the_share_of_positive_values(shape: tuple[int, ...]) -> None:
    output = random(*shape).relu()
    assert slope_of_rectified(output) == float((output > 0).double().mean())


def test_a_large_rectified_output_is_sampled_for_its_slope() -> None:
    output = (random(64, 8000) + 0.5).relu()
    share, kept = float((output > 0).double().mean()), ACTIVATION_SAMPLE / 2
    assert slope_of_rectified(output) == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / kept))


def test_nan_is_not_positive() -> None:
    output = torch.tensor([[1.0, 0.0], [math.nan, 2.0], [0.0, math.inf]])
    assert slope_of_rectified(output) == 3 / 6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_amplitude_does_not_depend_on_the_order_in_memory(dtype: torch.dtype) -> None:
    image = random(4, 3, 6, 5).to(dtype)
    for output in (image, image.to(memory_format=torch.channels_last), image.transpose(1, 3), image[:, :, ::2]):
        found = read_output(output, OutputLayout(tuple(output.shape), 4, channels_first=True))
        assert found.amplitude == amplitude(output)
        assert found.slope is None
        assert found.units.dead_fraction == 0.0


def test_an_output_without_elements_has_no_statistics() -> None:
    found = read_output(torch.empty(0, 5), OutputLayout((0, 5), 0))
    assert (found.amplitude.numel, found.units.dead_fraction, found.units.similarity) == (0, None, None)
