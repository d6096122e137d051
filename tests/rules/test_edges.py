"""Rules at the edges of their numbers: zero, the ends of a chain, and counts of several kinds together."""

from __future__ import annotations

import math

import pytest

from gradinspect.contracts.optimizers import Sgd
from gradinspect.contracts.report.report import Finding, Measurements
from gradinspect.contracts.report.sections import PrecisionSection
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.rules import DEFAULT_POLICY, RULES_BY_ID, compare, judge
from gradinspect.rules.catalogue.parameters.uneven_gradients import layer_ratios
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.values import badness, rule_values
from gradinspect.testing.measurements import MODEL, chain, changed, changed_parameter

SGD = InspectionSettings(optimizer=Sgd(type="sgd", lr=0.1))


def finding_of(measured: Measurements, rule: str) -> Finding:
    report = judge(measured, policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=SGD)
    return next(finding for finding in report.findings if finding.rule == rule)


@pytest.mark.parametrize(
    ("rule", "worst"),
    [("vanishing_signal", math.inf), ("exploding_signal", -math.inf), ("update_ratio", math.inf)],
)
def test_zero_is_infinitely_bad_below_a_threshold_and_infinitely_good_above_one(rule: str, worst: float) -> None:
    assert badness(RULES_BY_ID[rule], 0.0, 1e-3) == worst


@pytest.mark.parametrize("value", [1e-4, 1e-2])
def test_badness_of_a_range_is_the_distance_from_its_geometric_middle(value: float) -> None:
    assert badness(RULES_BY_ID["update_ratio"], value, 1e-3) == pytest.approx(math.log2(10))


def test_values_that_are_not_finite_are_counted_over_activations_weights_and_gradients() -> None:
    measured = changed(chain(), "2", nonfinite_count=3)
    measured = changed_parameter(measured, "1.weight", weight_nonfinite_count=40, nan_count=500, inf_count=6000)
    assert finding_of(measured, "non_finite").value == 6543.0


def test_the_loss_scale_of_a_narrow_window_is_a_power_of_two_in_its_middle() -> None:
    section = PrecisionSection(
        compute="float32", intended="float16", loss_scale=1.0, fp16_flush_fraction=0.2, bf16_flush_fraction=0.0,
        loss_scale_window=(2.0**-4, 2.0**-3),
    )  # fmt: skip
    remedy = finding_of(chain(precision=section), "low_precision_underflow").remedy
    assert remedy is not None
    assert remedy.arguments["loss_scale"] == 2.0**-3  # the exponent -3.5 is cut towards zero


def test_the_value_of_saturation_is_the_largest_share_where_others_are_zero() -> None:
    measured = changed(chain(nonlinearity="tanh"), "0", saturated_fraction=0.0)
    measured = changed(measured, "1", saturated_fraction=0.1)
    assert rule_values(Evidence.of(measured, None))["saturated_activation"].value == 0.1


@pytest.mark.parametrize("end", ["0", "5"])
def test_the_first_and_the_last_layer_are_no_side_branches(end: str) -> None:
    measured = changed(chain((1.0,) * 5), end, cumulative_backward_gain=0.01)
    assert end in layer_ratios(Evidence.of(measured, None))


def test_a_layer_with_far_less_signal_than_layers_on_both_sides_is_a_side_branch() -> None:
    measured = changed(chain((1.0,) * 5), "2", cumulative_backward_gain=0.01)
    assert "2" not in layer_ratios(Evidence.of(measured, None))


def updates(ratio: float) -> Measurements:
    measured = chain()
    for depth in range(6):
        measured = changed_parameter(measured, f"{depth}.weight", update_norm=ratio * 10, update_to_weight=ratio)
    return measured


@pytest.mark.parametrize(
    ("before", "after", "change"), [(0.2, 0.9, "worse"), (0.9, 0.2, "better"), (0.2, 0.3, "no_clear_change")]
)
def test_a_value_outside_a_range_changes_with_its_distance_from_the_middle(
    before: float, after: float, change: str
) -> None:
    base, head = (
        judge(updates(ratio), policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=SGD)
        for ratio in (before, after)
    )
    rule = next(rule for rule in compare(base, head).rules if rule.rule == "update_ratio")
    assert (rule.base, rule.head, rule.change) == ("warn", "warn", change)


def test_a_loss_scale_that_was_not_declared_is_one() -> None:
    section = PrecisionSection(
        compute="float16", loss_scale=0.0, fp16_flush_fraction=0.2, bf16_flush_fraction=0.0, intended=None
    )
    assert (
        "at a loss scale of 1;"
        in finding_of(
            changed_parameter(chain(precision=section), "1.weight", fp16_flush_fraction=0.2), "low_precision_underflow"
        ).message
    )
