"""The factor blamed for a signal that shrinks or grows, and the remedy for it."""

import math

import pytest

from gradinspect.contracts.nonlinearities import balanced_slope
from gradinspect.contracts.report.report import Measurements
from gradinspect.contracts.report.rows import ActivationStatistics, SignalStatistics
from gradinspect.rules.blame import blame
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.remedies import remedy_for
from gradinspect.testing.measurements import chain, changed, layer, measurements


def blamed(measured: Measurements):  # type: ignore[no-untyped-def]  # a Blame
    return blame(Evidence.of(measured, None), measured.layers[0].cumulative_backward_gain or 0.0)


def test_sigmoids_with_balanced_weights_are_blamed_for_their_slope() -> None:
    found = blamed(chain((0.25,) * 10, nonlinearity="sigmoid", slope=0.25))
    assert found.cause == "activation_slope"
    assert "Each sigmoid multiplies the signal by 0.25, the weights by 1 " in found.sentence


def test_small_weights_behind_sigmoids_still_leave_the_slope_to_blame() -> None:
    found = blamed(chain((0.25 * 0.63,) * 10, nonlinearity="sigmoid", slope=0.25))
    assert found.cause == "activation_slope"
    assert "by 0.25, the weights by 0.63" in found.sentence


def test_xavier_weights_before_relus_are_blamed_instead_of_the_relus() -> None:
    found = blamed(chain((math.sqrt(0.5),) * 30, slope=math.sqrt(0.5)))
    assert found.cause == "weight_scale"
    assert "by 1 a layer where 1.4 would balance" in found.sentence
    assert "too small" in found.sentence


def test_the_sentence_has_the_prediction_of_theory_where_there_is_one() -> None:
    measured = chain((math.sqrt(0.5),) * 10)
    measured = changed(measured, "3", predicted_chi1=0.5, measured_chi1=0.49)
    assert "theory predicts a gain of 0.71 a layer for these weights; measured: 0.7" in blamed(measured).sentence


def test_default_weights_before_tanh_are_blamed() -> None:
    found = blamed(chain((0.9 / math.sqrt(3),) * 20, nonlinearity="tanh", slope=0.9))
    assert found.cause == "weight_scale"
    remedy = remedy_for(found)
    assert remedy.arguments["function"] == "xavier_normal_"


def test_large_weights_are_blamed_for_an_explosion() -> None:
    found = blamed(chain((3.0,) * 10))
    assert found.cause == "weight_scale"
    assert "too large" in found.sentence


def test_many_layers_that_are_each_nearly_balanced_leave_depth_to_blame() -> None:
    found = blamed(chain((0.95,) * 200, slope=math.sqrt(0.5)))
    assert found.cause == "depth"
    assert remedy_for(found).action == "add_residual"


def test_batch_norm_without_skips_is_blamed_for_its_growth() -> None:
    rows = []
    signals = [1.1 ** (20 - depth) for depth in range(21)]
    for depth in range(20):
        norm = depth % 2 == 1
        rows.append(
            layer(depth, kind="BatchNorm1d" if norm else "Linear", nonlinearity="relu" if norm else None,
                  activation_gain=math.sqrt(0.5) if norm else 1.0, weight_gain=1.1 * (math.sqrt(2) if norm else 1.0),
                  backward_gain=1.1, cumulative_backward_gain=signals[depth],
                  signal=SignalStatistics(norm=signals[depth]))
        )  # fmt: skip
    rows.append(layer(20, cumulative_backward_gain=1.0, signal=SignalStatistics(norm=1.0)))
    found = blamed(measurements(rows, []))
    assert found.cause == "normalisation"
    assert "Each of 10 normalised layers multiplies the signal by 1.2" in found.sentence


def test_residual_branches_are_blamed_for_their_scale() -> None:
    rows = []
    for depth in range(20):
        joins = depth % 2 == 1
        gain = 2.0 if joins else 1.0
        rows.append(
            layer(depth, nonlinearity=None if joins else "relu", backward_gain=gain, weight_gain=gain,
                  activation_gain=1.0 if joins else math.sqrt(0.5), predicted_chi1=None if joins else 1.0,
                  cumulative_backward_gain=2.0 ** math.ceil((20 - depth) / 2), signal=SignalStatistics(norm=1.0))
        )  # fmt: skip
    found = blamed(measurements(rows, []))
    assert found.cause == "residual_scale"
    assert remedy_for(found).arguments["scale"] == pytest.approx(1 / math.sqrt(10), abs=1e-4)


@pytest.mark.parametrize(("joins", "cause"), [((4,), "weight_scale"), ((4, 8), "residual_scale")])
def test_residual_branches_are_blamed_from_two_joins_on(joins: tuple[int, ...], cause: str) -> None:
    measured = chain((2.0,) * 10)
    for depth in range(10):
        fields = {"nonlinearity": None, "predicted_chi1": None} if depth in joins else {"predicted_chi1": 1.0}
        measured = changed(measured, str(depth), **fields)
    assert blamed(measured).cause == cause


def test_weights_applied_many_times_are_blamed_as_a_recurrence() -> None:
    rows = [
        layer(step, name="rnn", call=step, backward_gain=1.5, cumulative_backward_gain=1.5 ** (9 - step),
              signal=SignalStatistics(norm=1.0))
        for step in range(10)
    ]  # fmt: skip
    found = blamed(measurements(rows, []))
    assert found.cause == "recurrence"
    assert "applied 10 times and multiply the signal by 1.5" in found.sentence


def test_a_saturated_tanh_is_named_as_flat() -> None:
    measured = chain((0.2,) * 6, nonlinearity="tanh", slope=0.2)
    for depth in range(6):
        measured = changed(measured, str(depth), saturated_fraction=0.8, preactivation=ActivationStatistics(std=8.0))
    found = blamed(measured)
    assert found.cause == "activation_slope"
    assert "80 % of its inputs lie where it is flat" in found.sentence


def test_the_balanced_slopes_are_those_of_standard_normal_inputs() -> None:
    # By the trapezoid rule over ±8; the table carries two to four digits.
    def root_mean_square(slope) -> float:  # type: ignore[no-untyped-def]  # a function of one number
        steps = 20_000
        values = [-8 + 16 * index / steps for index in range(steps + 1)]
        density = [math.exp(-z * z / 2) / math.sqrt(2 * math.pi) for z in values]
        return math.sqrt(sum(slope(z) ** 2 * p for z, p in zip(values, density, strict=True)) * 16 / steps)

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    def normal(z: float) -> float:
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    slopes = {
        "relu": lambda z: float(z > 0),
        "gelu": lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2))) + z * normal(z),
        "silu": lambda z: sigmoid(z) * (1 + z * (1 - sigmoid(z))),
        "elu": lambda z: 1.0 if z > 0 else math.exp(z),
        "softplus": sigmoid,
        "hardswish": lambda z: 0.0 if z < -3 else 1.0 if z > 3 else (2 * z + 3) / 6,
        "mish": lambda z: (
            math.tanh(math.log1p(math.exp(z))) + z * (1 - math.tanh(math.log1p(math.exp(z))) ** 2) * sigmoid(z)
        ),
    }
    for name, slope in slopes.items():
        assert balanced_slope(name) == pytest.approx(root_mean_square(slope), abs=0.001), name
