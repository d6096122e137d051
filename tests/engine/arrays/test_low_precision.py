"""Gradients that low precision flushes to zero: the error function for normal gradients, the loss-scale window."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.report.report import Measurements
from gradinspect.engine.arrays.distributions import distribution
from gradinspect.engine.arrays.precision import flush_fractions
from tests.support.networks.inspected import inspect, parameter, random


class Weights(nn.Module):
    """A model with one parameter, which can be given any gradient."""

    def __init__(self, *values: torch.Tensor) -> None:
        super().__init__()
        self.parts = nn.ParameterList(values)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.flatten() for part in self.parts]) * x.mean()


def with_gradients(*gradients: torch.Tensor, **options: Any) -> Measurements:  # Any: options of inspect
    model = Weights(*(nn.Parameter(torch.ones_like(gradient)) for gradient in gradients))
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    return inspect(
        model, torch.ones(2, 1, dtype=flat.dtype), loss=lambda output, _target: (output * flat).sum(), **options
    )


@pytest.mark.parametrize("size", [16_000, 1_000_000])
@pytest.mark.parametrize("s", [3e-8, 1e-7, 1e-6])
def test_the_flushed_share_of_normal_gradients_is_the_error_function(s: float, size: int) -> None:
    report = with_gradients(s * random(size, dtype=torch.float32))
    expected = math.erf(2.0**-25 / (s * math.sqrt(2)))
    looked_at = min(size, 16_384)  # above that a strided sample stands for all
    error = math.sqrt(expected * (1 - expected) / looked_at)
    found = parameter(report, "parts.0").fp16_flush_fraction
    assert found == pytest.approx(expected, abs=4.9 * error)  # outside with a probability of 1e-6
    assert (s, round(expected, 3)) in {(3e-8, 0.679), (1e-7, 0.234), (1e-6, 0.024)}


def test_a_loss_scale_divides_the_flush_threshold_by_its_factor() -> None:
    gradient = torch.tensor([2.0**-25, 2.0**-26, 2.0**-41, 2.0**-42], dtype=torch.float64)
    scales = {1.0: 1.0, 2.0: 0.75, 2.0**16: 0.5, 2.0**17: 0.25, 2.0**18: 0.0}
    for scale, expected in scales.items():
        report = with_gradients(gradient, precision={"intended": "float16", "loss_scale": scale})
        assert parameter(report, "parts.0").fp16_flush_fraction == expected


def test_the_threshold_is_where_float16_itself_rounds_to_zero() -> None:
    values = torch.tensor([2.0**-25, 2.0**-25 * (1 + 2.0**-23), 2.0**-24, 1.0])  # the second is the next float32
    share = float((values.half() == 0).double().mean())
    assert flush_fractions(distribution(values), 1.0)[0] == share == 0.25


def test_the_bfloat16_threshold_is_where_bfloat16_itself_rounds_to_zero() -> None:
    values = torch.tensor([2.0**-134, 2.0**-134 + 2.0**-149, 2.0**-133, 1.0])  # the second is the next float32
    share = float((values.bfloat16() == 0).double().mean())
    assert flush_fractions(distribution(values), 1.0)[1] == share == 0.25


def test_exact_zeros_do_not_count_as_flushed() -> None:
    report = with_gradients(torch.tensor([0.0, 0.0, 1e-9, 1.0], dtype=torch.float64))
    assert parameter(report, "parts.0").fp16_flush_fraction == 0.5
    nothing = with_gradients(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    assert parameter(nothing, "parts.0").fp16_flush_fraction is None


def test_the_window_reaches_from_the_first_percentile_to_the_largest_magnitude() -> None:
    # 1,000 magnitudes from 2⁻²⁰ up in equal ratios; p01 is the tenth, the largest is 8.
    magnitudes = torch.logspace(-20, 3, 1000, base=2.0, dtype=torch.float64)
    section = with_gradients(magnitudes).precision
    assert section is not None
    assert section.loss_scale_window is not None
    low, high = section.loss_scale_window
    # The weighted rank p01·n = 10 falls between the tenth and the eleventh value, one ratio 2^(23/999) apart.
    assert low == pytest.approx(2.0**-14 / float(magnitudes[9]), rel=2 ** (23 / 999) - 1)
    assert high == pytest.approx(65504 / 8, rel=1e-12)


def test_the_section_weighs_parameters_by_their_non_zero_elements() -> None:
    small = torch.full((30,), 1e-9, dtype=torch.float64)
    large = torch.cat([torch.ones(10, dtype=torch.float64), torch.zeros(60, dtype=torch.float64)])
    section = with_gradients(small, large).precision
    assert section is not None
    assert section.fp16_flush_fraction == pytest.approx(0.75, rel=1e-12)
    assert section.bf16_flush_fraction == 0.0


def test_without_a_finite_gradient_the_section_is_undetermined() -> None:
    section = with_gradients(torch.tensor([math.nan, 1.0], dtype=torch.float64)).precision
    assert section is not None
    assert section.status == "undetermined"
    assert section.reason == "no parameter has a finite, non-zero gradient"


def test_a_half_precision_gradient_is_unscaled_in_full_precision() -> None:
    # 1e-8 is below float16's smallest number, and 65536 times 1e-8 is not.
    model = Weights(nn.Parameter(torch.ones(10, dtype=torch.float16)))
    report = inspect(
        model, torch.ones(2, 1, dtype=torch.float16), loss=lambda output, _target: (output.float() * 1e-8).sum(),
        precision={"intended": "float16", "loss_scale": 65536.0},
    )  # fmt: skip
    row = parameter(report, "parts.0")
    assert row.zero_fraction == 0.0
    assert row.grad_norm == pytest.approx(1e-8 * math.sqrt(10), rel=2.0**-10)
