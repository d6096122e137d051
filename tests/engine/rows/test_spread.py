"""The spread of passes over seeds, per layer."""

from __future__ import annotations

import math

import pytest

from gradinspect.contracts.report.rows import LayerMeasurement, SignalStatistics
from gradinspect.engine.rows.seed_spread import seed_spread
from gradinspect.testing.measurements import layer


def passes(*signals: float | None) -> list[list[LayerMeasurement]]:
    return [
        [layer(0, signal=SignalStatistics(norm=rms, rms=rms), forward_gain=2.0, grad_norm=rms and 5 * rms)]
        for rms in signals
    ]


def test_one_pass_has_no_spread() -> None:
    assert seed_spread(passes(1.0)) is None


def test_the_spread_is_the_standard_deviation_of_log2() -> None:
    found = seed_spread(passes(1.0, 4.0))
    assert found is not None
    assert found.seeds == 2
    (row,) = found.layers
    # log2 is 0 and 2: mean 1, standard deviation √2 with one degree of freedom. Gradients scale with the signal.
    assert row.signal_rms == pytest.approx(math.sqrt(2))
    assert row.grad_norm == pytest.approx(math.sqrt(2))
    assert row.forward_gain == 0.0
    assert row.backward_gain is None


def test_a_number_that_is_zero_or_missing_in_any_pass_has_no_spread() -> None:
    for odd in (0.0, None):
        found = seed_spread(passes(1.0, odd, 4.0))
        assert found is not None
        assert found.layers[0].signal_rms is None
        assert found.layers[0].grad_norm is None


def test_a_layer_call_missing_in_one_pass_has_no_spread() -> None:
    layers = passes(1.0, 2.0)
    layers[0].append(layer(1, signal=SignalStatistics(rms=1.0)))
    found = seed_spread(layers)
    assert found is not None
    assert found.layers[1].signal_rms is None
