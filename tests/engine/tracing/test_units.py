"""Dead units and similar samples, compared with plain counts and pairwise comparisons."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradinspect.engine.arrays.units import ACTIVATION_SAMPLE, OutputLayout, UnitReading
from gradinspect.engine.tracing.outputs import read_output
from tests.support.networks.inspected import inspect, random


def dead_share(values: torch.Tensor, axis: int) -> float:
    by_unit = values.movedim(axis, -1).reshape(-1, values.shape[axis])
    return float(((by_unit == 0).double().mean(0) >= 0.99).double().mean())


def similarity(values: torch.Tensor) -> float:
    rows = values.flatten(1).double()
    unit = rows / rows.norm(dim=1, keepdim=True)
    return float(np.mean([float(a @ b) for a, b in itertools.permutations(unit, 2)]))


def read(values: torch.Tensor, *, channels_first: bool = False) -> UnitReading:
    return read_output(values, OutputLayout(tuple(values.shape), values.shape[0], channels_first)).units


@pytest.mark.parametrize(("zeros", "dead"), [(100, 1.0), (99, 1.0), (98, 0.0), (0, 0.0)])
def test_a_unit_is_dead_when_it_is_zero_for_99_of_100_samples(zeros: int, dead: float) -> None:
    values = torch.ones(100, 1)
    values[:zeros] = 0.0
    assert read(values).dead_fraction == dead


@settings(max_examples=60)
@given(
    st.integers(1, 700), st.integers(1, 30), st.integers(0, 2**31), st.sampled_from([0.0, 0.005, 0.01, 0.02, 0.5, 1.0])
)
def test_dead_units_are_counted_exactly_after_the_screening(rows: int, units: int, seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    alive = torch.rand(rows, units, generator=generator) < share * torch.rand(units, generator=generator) * 2
    values = alive.double()
    assert read(values).dead_fraction == dead_share(values, 1)


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 8), st.integers(1, 40), st.integers(0, 2**31))
def test_channels_are_counted_over_samples_and_positions(batch: int, channels: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = (torch.rand(batch, channels, size, 3, generator=generator) < 0.03).double()
    values[:, ::2] = 0.0
    assert read(values, channels_first=True).dead_fraction == dead_share(values, 1)


def test_a_unit_active_only_in_the_last_rows_is_alive() -> None:
    values = torch.zeros(5000, 4)
    values[-60:, 1] = 1.0  # 1.2 %
    values[-40:, 2] = 1.0  # 0.8 %
    values[::2, 3] = 1.0
    assert read(values).dead_fraction == 0.5


@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 6), (5, 2, 4, 4)])
def test_similarity_is_the_mean_cosine_over_pairs_of_samples(shape: tuple[int, ...]) -> None:
    values = random(*shape) + 0.3
    assert read(values).similarity == pytest.approx(similarity(values), rel=1e-12)


def test_similarity_uses_the_second_axis_as_samples_in_time_first_layers() -> None:
    values = random(6, 4, 3) + 0.3  # (time, batch, features)
    found = read_output(values.reshape(24, 3), OutputLayout((6, 4, 3), 4)).units.similarity
    assert found == pytest.approx(similarity(values.transpose(0, 1)), rel=1e-12)


def test_parallel_samples_have_a_similarity_of_1_and_opposite_ones_of_minus_1() -> None:
    direction = random(1, 9)
    assert read(direction * torch.tensor([[1.0], [2.0], [5.0]])).similarity == pytest.approx(1.0, rel=1e-12)
    assert read(direction * torch.tensor([[1.0], [-2.0]])).similarity == pytest.approx(-1.0, rel=1e-12)


def test_samples_of_zeros_have_no_direction_and_do_not_count() -> None:
    values = torch.cat([random(3, 5), torch.zeros(2, 5, dtype=torch.float64)])
    assert read(values).similarity == pytest.approx(similarity(values[:3]), rel=1e-12)
    assert read(torch.zeros(4, 5)).similarity is None


def test_a_single_sample_has_no_similarity() -> None:
    assert read(random(1, 5)).similarity is None


def test_a_large_output_is_compared_on_a_sample_of_its_features() -> None:
    common = random(1, 30_000, seed=1)
    values = common + random(16, 30_000, seed=2)
    assert values.numel() > ACTIVATION_SAMPLE
    # The expected cosine is 1/2; over k features, that of a pair has a standard deviation below 1/√k.
    kept = ACTIVATION_SAMPLE / 16 / 2
    assert read(values).similarity == pytest.approx(similarity(values), abs=5 / math.sqrt(kept))


def test_similarity_rises_with_depth_as_the_arc_cosine_kernel_predicts() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(16):
        linear = nn.Linear(256, 256, bias=False)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, nn.ReLU()]
    rows = inspect(nn.Sequential(*layers), torch.randn(32, 256), loss="random_cotangent").layers
    cosine = 0.0  # of two independent inputs; Cho and Saul 2009, equation 6, gives the cosine after a ReLU layer
    for row in rows:
        cosine = (math.sqrt(1 - cosine**2) + (math.pi - math.acos(cosine)) * cosine) / math.pi
        # The kernel of 256 units fluctuates by about 1/√256 per layer, decaying towards the fixed point.
        assert row.sample_similarity == pytest.approx(cosine, abs=2 / math.sqrt(256))
