"""The backward signal against depth: slope, standard error, fit, over one pass and over several."""

from __future__ import annotations

import math
from statistics import stdev
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradinspect.contracts.report.rows import LayerMeasurement, SignalStatistics
from gradinspect.contracts.report.sections import DepthDecay
from gradinspect.engine.rows.depth_decay import depth_decay, fit_line, geometric_mean
from tests.support.networks.inspected import ROUNDING, as_job, inspect, linear_chain, output_sum, random


def rows(rms: list[float | None], widths: list[int] | None = None) -> list[LayerMeasurement]:
    """Make layer rows from input to output; a signal of None means that no gradient arrived."""
    norms = [None if value is None else value * math.sqrt((widths or [1] * len(rms))[i]) for i, value in enumerate(rms)]
    last = next((value for value in reversed(norms) if value is not None), None)
    return [
        LayerMeasurement(
            depth=place, name=str(place), call=0, kind="Linear", parameters=(), output_shape=(1,),
            signal=None if value is None else SignalStatistics(norm=norm, rms=value),
            cumulative_backward_gain=None if norm is None or not last else norm / last,
        )
        for place, (value, norm) in enumerate(zip(rms, norms, strict=True))
    ]  # fmt: skip


def found(*passes: list[LayerMeasurement]) -> DepthDecay:
    return depth_decay(passes)


@pytest.mark.parametrize("factor", [0.25, 0.999, 1.0, 3.0])
def test_a_constant_factor_per_layer_gives_a_straight_line_with_its_logarithm_as_slope(factor: float) -> None:
    decay = found(rows([factor ** (9 - place) for place in range(10)]))
    assert decay.slope_log10_per_layer == pytest.approx(math.log10(factor), abs=1e-12)
    assert decay.stderr == pytest.approx(0.0, abs=1e-12)
    assert decay.r2 == (None if factor == 1.0 else pytest.approx(1.0))
    assert decay.cumulative_gain == pytest.approx(factor**9)
    assert (decay.layers_used, decay.status) == (10, "measured")


def test_a_signal_that_shrinks_towards_the_first_layer_has_a_negative_slope() -> None:
    model = linear_chain(*(0.5 * torch.eye(3, dtype=torch.float64) for _ in range(6)))
    decay = inspect(model, random(2, 3), loss=output_sum).depth_decay
    assert decay is not None
    assert decay.slope_log10_per_layer == pytest.approx(math.log10(0.5), rel=ROUNDING)
    assert decay.cumulative_gain == pytest.approx(0.5**5, rel=ROUNDING)


@settings(max_examples=50)
@given(st.lists(st.floats(-8, 8), min_size=3, max_size=30))
def test_the_line_is_numpys_least_squares_and_its_standard_error(logs: list[float]) -> None:
    x = np.arange(len(logs), dtype=float)
    line = fit_line(x.tolist(), logs)
    slope, intercept = np.polyfit(x, logs, 1)
    residual = np.array(logs) - (slope * x + intercept)
    scale = 1 + max(map(abs, logs))
    assert line.slope == pytest.approx(slope, abs=1e-10 * scale)
    error = math.sqrt((residual @ residual) / (len(x) - 2) / ((x - x.mean()) @ (x - x.mean())))
    assert line.stderr == pytest.approx(error, abs=1e-7 * scale)
    total = float(np.var(logs) * len(logs))
    if total > 1e-6:
        assert line.r2 == pytest.approx(1 - residual @ residual / total, abs=1e-6)


def test_several_passes_have_the_mean_slope_and_its_standard_error_from_their_spread() -> None:
    factors = [0.5, 0.6, 0.8]
    decay = found(*(rows([f ** (7 - place) for place in range(8)]) for f in factors))
    slopes = [math.log10(f) for f in factors]
    assert decay.slope_log10_per_layer == pytest.approx(sum(slopes) / 3)
    assert decay.stderr == pytest.approx(stdev(slopes) / math.sqrt(3))
    assert decay.cumulative_gain == pytest.approx((0.5 * 0.6 * 0.8) ** (7 / 3))
    assert decay.r2 == pytest.approx(1.0)


def test_layers_without_a_signal_are_omitted_from_the_fit_but_keep_their_depth() -> None:
    signals: list[float | None] = [0.5 ** (9 - place) for place in range(10)]
    signals[3] = signals[4] = None
    signals[0] = 0.0
    decay = found(rows(signals))
    assert decay.slope_log10_per_layer == pytest.approx(math.log10(0.5))
    assert decay.layers_used == 7


@pytest.mark.parametrize("signals", [[1.0], [1.0, 0.5], [None, 1.0, None, 0.5], [0.0, 0.0, 0.0, 1.0]])
def test_fewer_than_three_signals_are_undetermined_with_the_reason(signals: list[float | None]) -> None:
    decay = found(rows(signals))
    assert (decay.status, decay.slope_log10_per_layer, decay.stderr) == ("undetermined", None, None)
    assert decay.reason is not None
    assert "a line needs 3" in decay.reason


def test_a_model_of_two_layers_is_undetermined() -> None:
    decay = inspect(linear_chain(random(3, 3), random(3, 3)), random(4, 3), loss=output_sum).depth_decay
    assert decay is not None
    assert decay.status == "undetermined"


def spec(depth: int) -> dict[str, Any]:
    block = [{"type": "Linear", "in_features": 64, "out_features": 64}, {"type": "ReLU"}]
    return {
        "input": {"shape": [64]},
        "layers": [{"repeat": depth, "layers": block}],
        "init": {"weight": {"name": "xavier_normal_"}, "bias": {"name": "zeros_"}},
    }


def test_over_seeds_the_signal_of_a_xavier_relu_net_shrinks_by_the_root_of_a_half_per_layer() -> None:
    # χ1 = 1/2: the norm shrinks by √½ per layer. A t-test over 16 seeds with a false-alarm rate of 1e-4 (t₁₅ = 5.24),
    # widened by the finite-width correction of order 1/64 per layer.
    measured = as_job(spec=spec(12), loss="random_cotangent", seeds=16)
    decay = measured.depth_decay
    assert decay is not None
    assert decay.stderr is not None
    assert decay.slope_log10_per_layer == pytest.approx(0.5 * math.log10(0.5), abs=5.24 * decay.stderr + 2 / 64)
    assert decay.stderr < 0.02


def test_seeds_of_a_spec_vary_its_weights_and_keep_its_data() -> None:
    one, two = (as_job(spec=spec(3), loss="random_cotangent", seeds=count) for count in (1, 2))
    assert one.environment.data_digest == two.environment.data_digest
    first, second = (as_job(spec=spec(3), loss="random_cotangent", seed=seed).parameters[0] for seed in (0, 1))
    assert first.weight_norm is not None
    assert second.weight_norm is not None
    mean = geometric_mean([first.weight_norm, second.weight_norm])
    assert first.weight_norm != second.weight_norm
    assert two.parameters[0].weight_norm == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"), [([], None), ([0.0, 2.0], 0.0), ([1.0, 4.0], 2.0), ([1e-300] * 3, 1e-300)]
)
def test_the_geometric_mean_is_zero_when_a_value_is_zero(values: list[float], expected: float | None) -> None:
    assert geometric_mean(values) == (expected if not expected else pytest.approx(expected, rel=1e-12))


def test_without_requested_signals_there_is_no_decay() -> None:
    report = inspect(nn.Linear(3, 3), random(2, 3, dtype=torch.float32), loss="output_mean", diagnostics=("gradients",))
    assert report.depth_decay is None
