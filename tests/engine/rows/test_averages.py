"""Averages of the rows of several passes."""

from __future__ import annotations

import math

import pytest

from gradinspect.contracts.report.rows import (
    ActivationStatistics,
    LayerMeasurement,
    Number,
    ParameterMeasurement,
    Quantiles,
    Row,
    SignalStatistics,
    joint_gradient_norm,
)
from gradinspect.engine.rows.averages import average_layers, average_parameters, averaging_rules


def layer(**fields: object) -> LayerMeasurement:
    given: dict[str, object] = {
        "depth": 0, "name": "0", "call": 0, "kind": "Linear", "parameters": ("0.weight",), "output_shape": (4, 2),
    }  # fmt: skip
    return LayerMeasurement.model_validate(given | fields)


def parameter(**fields: object) -> ParameterMeasurement:
    given: dict[str, object] = {
        "name": "0.weight", "layer": "0", "shape": (2,), "numel": 2, "dtype": "float32", "status": "trained",
    }  # fmt: skip
    return ParameterMeasurement.model_validate(given | fields)


def test_one_pass_is_its_own_average() -> None:
    row = layer(forward_gain=0.5)
    assert average_layers([[row]], ()) == (row,)
    assert average_parameters([[parameter(grad_norm=2.0)]]) == (parameter(grad_norm=2.0),)


def test_gains_and_norms_are_averaged_geometrically_shares_and_means_arithmetically() -> None:
    (row,) = average_layers([
        [layer(backward_gain=0.1, dead_unit_fraction=0.2, signal=SignalStatistics(norm=1.0, rms=0.5),
               activation=ActivationStatistics(mean=-1.0, std=1.0, rms=2.0, abs_max=8.0))],
        [layer(backward_gain=0.4, dead_unit_fraction=0.4, signal=SignalStatistics(norm=4.0, rms=2.0),
               activation=ActivationStatistics(mean=3.0, std=4.0, rms=8.0, abs_max=2.0))],
    ], ())  # fmt: skip
    assert row.backward_gain == pytest.approx(0.2)
    assert row.dead_unit_fraction == pytest.approx(0.3)
    assert row.signal is not None
    assert (row.signal.norm, row.signal.rms) == pytest.approx((2.0, 1.0))
    assert row.activation is not None
    assert (row.activation.mean, row.activation.std) == pytest.approx((1.0, 2.0))


def test_counts_keep_their_largest_value_and_positions_stay() -> None:
    (row,) = average_parameters([[parameter(nan_count=1)], [parameter(nan_count=5)]])
    assert (row.nan_count, row.numel) == (5, 2)
    (call,) = average_layers([[layer(nonfinite_count=0)], [layer(nonfinite_count=7)]], ())
    assert (call.nonfinite_count, call.depth, call.call) == (7, 0, 0)


def test_a_value_missing_in_one_pass_is_the_mean_of_the_others() -> None:
    (row,) = average_parameters([[parameter(grad_norm=2.0)], [parameter()], [parameter(grad_norm=8.0)]])
    assert row.grad_norm == pytest.approx(4.0)
    (late,) = average_parameters([[parameter()], [parameter(grad_norm=3.0)]])
    assert late.grad_norm == pytest.approx(3.0)


def test_a_signal_missing_in_one_pass_is_the_mean_of_the_others() -> None:
    (row,) = average_layers([[layer()], [layer(signal=SignalStatistics(norm=4.0, rms=1.0))]], ())
    assert row.signal is not None
    assert (row.signal.norm, row.signal.rms) == pytest.approx((4.0, 1.0))


def test_distributions_are_the_first_passes() -> None:
    first, second = Quantiles(p50=1.0), Quantiles(p50=9.0)
    (row,) = average_parameters([[parameter(grad_quantiles=first)], [parameter(grad_quantiles=second)]])
    assert row.grad_quantiles == first


def test_a_zero_in_a_geometric_mean_stays_zero() -> None:
    (row,) = average_parameters([[parameter(grad_norm=0.0)], [parameter(grad_norm=9.0)]])
    assert row.grad_norm == 0.0


def test_negative_and_missing_similarities_are_averaged() -> None:
    (row,) = average_layers([[layer(sample_similarity=-0.5)], [layer(sample_similarity=0.25)]], ())
    assert row.sample_similarity == pytest.approx(-0.125)
    assert not math.isnan(row.sample_similarity or math.nan)


def test_a_parameter_that_is_zero_in_one_draw_only_is_trained() -> None:
    rows = average_parameters([[parameter(status="zero", grad_norm=0.0)], [parameter(status="trained", grad_norm=1.0)]])
    assert rows[0].status == "trained"


def test_calls_are_matched_by_name_where_the_passes_differ_in_structure() -> None:
    one = [layer(name="a", forward_gain=1.0), layer(name="b", forward_gain=2.0)]
    other = [layer(name="b", forward_gain=8.0)]
    first, second = average_layers([one, other], ())
    assert (first.forward_gain, second.forward_gain) == pytest.approx((1.0, 4.0))


def test_a_layers_gradient_norm_follows_from_the_averages_of_its_parameters() -> None:
    passes = [[parameter(grad_norm=2.0)], [parameter(grad_norm=8.0)]]
    rows = average_parameters(passes)
    named = layer(parameters=(rows[0].name,), grad_norm=2.0), layer(parameters=(rows[0].name,), grad_norm=8.0)
    (row,) = average_layers([[named[0]], [named[1]]], rows)
    assert row.grad_norm == pytest.approx(4.0)
    other = parameter(grad_norm=3.0).model_copy(update={"name": "other"})
    (row,) = average_layers([[layer(parameters=("other",))], [layer(parameters=("other",))]], [*rows, other])
    assert row.grad_norm == pytest.approx(3.0)  # of its parameters only


@pytest.mark.parametrize("model", [LayerMeasurement, ParameterMeasurement, ActivationStatistics, SignalStatistics])
def test_every_number_of_a_row_says_how_it_is_averaged(model: type[Row]) -> None:
    rules = averaging_rules(model)
    numbers = {name for name, field in model.model_fields.items() if "float" in str(field.annotation)}
    assert numbers <= set(rules)


def test_a_number_without_a_rule_for_averages_is_an_error() -> None:
    class Incomplete(Row):
        share: Number = None

    with pytest.raises(TypeError, match=r"Incomplete\.share is a number without a rule"):
        averaging_rules(Incomplete)


def test_a_row_inside_a_row_without_a_rule_is_an_error() -> None:
    class Outer(Row):
        inner: Quantiles | None = None

    with pytest.raises(TypeError, match=r"Outer\.inner"):
        averaging_rules(Outer)


def test_gradient_norms_of_several_parameters_are_combined_unless_one_is_not_finite() -> None:
    weight, bias = parameter(name="w", grad_norm=3.0), parameter(name="b", grad_norm=4.0)
    rows = {row.name: row for row in (weight, bias)}
    assert joint_gradient_norm(("w", "b"), rows) == pytest.approx(5.0)
    assert joint_gradient_norm(("w", "unknown"), rows) == pytest.approx(3.0)
    assert joint_gradient_norm(("w", "b"), rows | {"b": parameter(name="b", nan_count=1)}) is None
    assert joint_gradient_norm(("b",), {"b": parameter(name="b")}) is None
