"""Statistics of tensors compared with float64, for any size, magnitude, layout and dtype."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from gradinspect.engine.arrays.distributions import SAMPLE, coprime_stride, distribution, strided_chunks
from gradinspect.engine.arrays.host_arrays import flat_values
from gradinspect.engine.arrays.statistics import BLOCK, amplitude, dot, moments, norm
from tests.support.networks.inspected import FLOAT64, random

# A chunk of 1,024 float32 products is summed by BLAS in eight lanes or more: each lane adds at most 128 terms.
FLOAT32_SUM = 128 * 2.0**-24


def finite_arrays(bound: float) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, array_shapes(max_dims=3, max_side=20), elements=st.floats(-bound, bound))


@settings(max_examples=50)
@given(finite_arrays(1e6))
def test_sums_of_float64_values_are_numpys(values: np.ndarray) -> None:
    found = moments(torch.from_numpy(values))
    slack = values.size * FLOAT64 * np.abs(values).sum()
    assert found.total == pytest.approx(values.sum(), abs=slack)
    assert found.square_total == pytest.approx(np.square(values).sum(), rel=values.size * FLOAT64)
    assert found.abs_total == pytest.approx(np.abs(values).sum(), rel=values.size * FLOAT64)
    assert found.abs_max == float(np.abs(values).max())
    assert (found.nonzero, found.numel) == (int(np.count_nonzero(values)), values.size)
    assert (found.nan_count, found.inf_count) == (0, 0)
    seen = amplitude(torch.from_numpy(values))
    assert seen.abs_max == found.abs_max
    assert seen.mean == pytest.approx(found.mean, abs=slack)
    assert norm(torch.from_numpy(values)) == pytest.approx(found.norm, rel=values.size * FLOAT64)


@settings(max_examples=30)
@given(arrays(np.float64, 40, elements=st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf])))
def test_values_that_are_not_finite_are_counted_exactly(values: np.ndarray) -> None:
    found = moments(torch.from_numpy(values))
    assert (found.nan_count, found.inf_count) == (np.isnan(values).sum(), np.isinf(values).sum())
    assert found.nonzero == np.count_nonzero(values)
    assert math.isnan(found.norm) == (not np.isfinite(values).all())
    assert amplitude(torch.from_numpy(values)).nonfinite_count == (~np.isfinite(values)).sum()
    assert math.isnan(norm(torch.from_numpy(values))) == (not np.isfinite(values).all())


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e-18, 1.0, 1e18, 1e30])
def test_float32_values_whose_squares_overflow_float32_are_summed_correctly(scale: float) -> None:
    values = (scale * random(3000)).float()
    exact = values.double()
    for found in (moments(values).norm, norm(values), amplitude(values).norm):
        assert found == pytest.approx(float(exact.norm()), rel=FLOAT32_SUM)
    assert moments(values).abs_mean == pytest.approx(float(exact.abs().mean()), rel=FLOAT32_SUM)


def test_a_large_float32_tensor_is_summed_with_a_relative_error_below_1e_5() -> None:
    values = torch.full((3 * BLOCK + 17,), 0.1)  # equal values are the worst case: all roundings have the same sign
    exact = float(values[0].double())
    assert moments(values).total == pytest.approx(exact * values.numel(), rel=FLOAT32_SUM)
    assert norm(values) == pytest.approx(exact * math.sqrt(values.numel()), rel=FLOAT32_SUM)
    assert amplitude(values).mean == pytest.approx(exact, rel=FLOAT32_SUM)


def test_a_single_non_finite_value_in_the_last_block_is_found() -> None:
    values = torch.ones(2 * BLOCK + 5)
    values[-1] = math.nan
    assert moments(values).nan_count == 1
    assert amplitude(values).nonfinite_count == 1
    assert math.isnan(norm(values))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_without_loss(dtype: torch.dtype) -> None:
    values = random(500).to(dtype)
    assert moments(values).norm == pytest.approx(float(values.double().norm()), rel=FLOAT32_SUM)


def test_a_tensor_with_permuted_strides_is_read_without_a_copy() -> None:
    image = random(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert flat_values(image).data_ptr() == image.data_ptr()
    assert torch.equal(flat_values(image, in_order=True), image.contiguous().reshape(-1))
    assert flat_values(image.transpose(0, 1)).data_ptr() == image.data_ptr()


@pytest.mark.parametrize(
    "view", [lambda t: t[::2], lambda t: t[:, 1:], lambda t: t[0].expand(5, 6), lambda t: t.t()], ids=range(4)
)
def test_views_count_each_of_their_elements(view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    values = view(random(8, 6))
    found = moments(values)
    assert found.numel == values.numel()
    assert found.norm == pytest.approx(float(values.norm()), rel=100 * FLOAT64)


def test_a_product_pairs_elements_by_index_not_by_memory_order() -> None:
    left, right = random(7, 9), random(9, 7, seed=1).t()
    assert dot(left, right) == pytest.approx(float((left * right).sum()), rel=100 * FLOAT64)


def test_complex_values_count_by_their_modulus() -> None:
    values = torch.complex(random(20), random(20, seed=1))
    assert norm(values) == pytest.approx(float(values.norm()), rel=100 * FLOAT64)


def test_an_empty_tensor_has_no_mean_and_a_norm_of_zero() -> None:
    found = moments(torch.empty(0))
    assert (found.norm, found.nonzero) == (0.0, 0)
    assert math.isnan(found.mean)
    assert math.isnan(amplitude(torch.empty(3, 0)).rms)


@settings(max_examples=50)
@given(finite_arrays(1e3))
def test_quantiles_are_numpys_up_to_the_sample_size(values: np.ndarray) -> None:
    found = distribution(torch.from_numpy(values))
    expected = np.quantile(np.abs(values), [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    assert found.quantiles == pytest.approx(expected, rel=10 * FLOAT64, abs=1e-300)
    assert not found.sampled


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [100, SAMPLE, SAMPLE + 1, 300_000])
def test_the_histogram_counts_every_value_read_by_its_exponent(size: int, dtype: torch.dtype) -> None:
    values = (random(size) * torch.logspace(-30, 3, size, dtype=torch.float64)).to(dtype)
    values[::7] = 0.0
    found = distribution(values)
    looked_at = found.magnitudes[found.magnitudes > 0]
    exponents = np.frexp(looked_at)[1] - 1
    for place, count in enumerate(found.exponent_counts):
        assert count == np.count_nonzero(exponents == found.lowest_exponent + place)
    assert sum(found.exponent_counts) + found.zeros == found.magnitudes.size <= SAMPLE
    assert found.sampled == (size > SAMPLE)


def test_binned_quantiles_are_within_their_bin_and_the_samples_rank_error() -> None:
    values = random(400_000).float()
    found = distribution(values)
    for level, quantile in zip((0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99), found.quantiles, strict=True):
        exact = float(np.quantile(found.magnitudes, level, method="lower"))
        assert quantile == pytest.approx(exact, rel=2.0**-7)  # half a bin of six mantissa bits
        rank = float((values.abs() <= quantile).double().mean())
        assert rank == pytest.approx(level, abs=4.9 * math.sqrt(level * (1 - level) / found.magnitudes.size) + 2.0**-8)


def test_quantiles_of_a_sample_are_zero_up_to_its_share_of_zeros() -> None:
    values = 1 + torch.rand(300_000, generator=torch.Generator().manual_seed(0))
    values[torch.arange(300_000) % 10 < 3] = -0.0
    found = distribution(values)
    assert found.zeros / found.magnitudes.size == pytest.approx(0.3, abs=1e-3)
    assert found.quantiles[:3] == (0.0, 0.0, 0.0)  # p25
    assert all(1 <= quantile <= 2 for quantile in found.quantiles[3:])


def test_subnormal_gradients_do_not_count_as_zeros() -> None:
    found = distribution(torch.full((SAMPLE + 1,), 1e-42))
    assert found.zeros == 0
    assert found.lowest_exponent == -127  # where all of float32's subnormals are counted
    assert distribution(torch.zeros(SAMPLE + 1)).exponent_counts == ()


@pytest.mark.parametrize("columns", [64, 768, 1000, 4096])
def test_a_strided_sample_visits_every_column_of_a_matrix(columns: int) -> None:
    count = columns * 2000
    stride = coprime_stride(count, SAMPLE)
    assert math.gcd(stride, count) == 1
    visited = {index % columns for index in range(0, count, stride)}
    assert len(visited) == columns


def test_a_sample_in_chunks_is_a_subset_spread_over_the_whole() -> None:
    values = torch.arange(1_000_000.0)
    sample = strided_chunks(values, 65_536)
    assert 32_768 < sample.numel() <= 65_536
    assert len(set(sample.tolist())) == sample.numel()
    assert sample[-1] > 990_000
    assert strided_chunks(values[:100], 65_536).numel() == 100
