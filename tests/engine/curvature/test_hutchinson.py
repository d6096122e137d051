"""Random signs, and the trace estimated with them."""

from __future__ import annotations

import math

import pytest
import torch

from gradinspect.engine.curvature.hutchinson import signs, trace_of


def test_random_signs_are_plus_or_minus_one_and_uncorrelated() -> None:
    v = signs(100_003, torch.Generator().manual_seed(0), torch.zeros((), dtype=torch.float64))
    assert v.shape == (100_003,)
    assert torch.equal(v.abs(), torch.ones_like(v))
    # Means of 100,000 signs have a standard deviation of 0.0032; 5 of them, at 9 lags.
    assert abs(float(v.mean())) < 0.016
    assert all(abs(float((v[lag:] * v[:-lag]).mean())) < 0.016 for lag in range(1, 10))


def test_a_trace_has_the_standard_error_of_its_mean() -> None:
    trace = trace_of([[1.0, 10.0], [3.0, 20.0], [5.0, 60.0]], [0])
    assert trace.value == 3.0
    assert trace.stderr == pytest.approx(2 / math.sqrt(3))
    assert trace_of([[1.0, 10.0]], [0, 1]).stderr is None
