"""Verdicts from findings, and judging a stored report again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradinspect.contracts.document import from_json
from gradinspect.contracts.optimizers import Sgd
from gradinspect.contracts.report.outcomes import RuleOutcome
from gradinspect.contracts.report.report import SCHEMA_VERSION, Measurements, Report
from gradinspect.contracts.report.rows import (
    ActivationStatistics,
    LayerMeasurement,
    ParameterMeasurement,
    SignalStatistics,
)
from gradinspect.contracts.request.policy import Policy, RulePolicy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.words.headline import headline
from gradinspect.rules import DEFAULT_POLICY, RULES, judge, rejudge
from gradinspect.testing.measurements import MODEL, chain, changed, changed_parameter, measurements, rescaled

SETTINGS = InspectionSettings()
RULE_OF = {rule.id: rule for rule in RULES}


def judged(
    measured: Measurements, policy: Policy = DEFAULT_POLICY, *, settings: InspectionSettings = SETTINGS
) -> Report:
    return judge(measured, policy=policy, model=MODEL, inspection="insp_1", settings=settings)


def outcomes(report: Report) -> dict[str, RuleOutcome]:
    return {outcome.rule: outcome for outcome in report.rules}


def test_a_balanced_chain_passes() -> None:
    report = judged(chain())
    assert (report.verdict, report.summary.verdict, report.summary.worst) == ("pass", "pass", ())
    assert report.inspection == "insp_1"
    assert report.model == MODEL


def test_the_severest_finding_decides() -> None:
    assert judged(chain((0.2,) * 5)).verdict == "warn"
    assert judged(changed(chain((0.2,) * 5), "2", nonfinite_count=1)).verdict == "fail"


def test_information_changes_no_verdict() -> None:
    report = judged(changed_parameter(chain(), "0.weight", status="frozen"))
    assert [finding.severity for finding in report.findings] == ["info"]
    assert report.verdict == "pass"


def test_one_layer_is_too_few_to_judge() -> None:
    report = judged(chain(()))
    assert report.verdict == "undetermined"
    assert "could not be judged" in headline(report)


def test_nothing_measured_is_undetermined_not_passed() -> None:
    assert judged(measurements([], [])).verdict == "undetermined"


def test_a_failure_counts_even_where_the_signal_cannot_be_judged() -> None:
    assert judged(changed(chain(()), "0", nonfinite_count=1)).verdict == "fail"


def test_a_policy_that_switches_the_signal_rules_off_can_still_pass() -> None:
    off = RulePolicy(enabled=False)
    policy = Policy(name="lenient", rules={"vanishing_signal": off, "exploding_signal": off})
    assert judged(chain(()), policy).verdict == "pass"


def test_findings_are_listed_severest_first() -> None:
    measured = changed_parameter(changed(chain((0.2,) * 5), "2", nonfinite_count=1), "0.bias", status="frozen")
    assert [finding.severity for finding in judged(measured).findings] == ["fail", "warn", "info"]


def test_worst_names_the_layers_behind_the_severest_findings() -> None:
    measured = changed(chain((0.2,) * 5), "3", nonfinite_count=1)
    assert judged(measured).summary.worst == ("3",)
    assert judged(chain((0.2,) * 5)).summary.worst == ("0",)
    assert len(judged(chain((0.5,) * 60)).summary.worst) == 16


def test_information_names_no_worst_layer() -> None:
    report = judged(changed_parameter(chain(), "0.weight", status="frozen"))
    assert report.findings[0].parameters == ("0.weight",)
    assert report.summary.worst == ()


def test_rules_without_their_measurement_are_listed_with_the_reason() -> None:
    of = outcomes(judged(chain()))
    assert of["noise_dominated"].reason == "the gradient noise was not measured"
    assert of["sharpness"].reason == "the curvature was not measured"
    assert of["update_ratio"].reason == "no optimizer was declared"
    assert {outcome.outcome for outcome in of.values() if outcome.reason is not None} == {"not_judged"}


@pytest.mark.parametrize(
    ("rule", "measured", "said"),
    [
        ("poor_initialization", chain((1.0,)), "1 layer feeds a nonlinearity"),
        ("initialization_mismatch", changed(chain(), "0", predicted_chi1=0.5, measured_chi1=0.5), "gain of 1 layer;"),
        ("uneven_gradients", chain(()), "1 layer has a trained weight"),
        ("normalization_growth", changed(chain(), "0", kind="BatchNorm1d"), "1 batch normalisation carries"),
        ("poor_initialization", chain(()), "0 layers feed a nonlinearity"),
    ],
)
def test_one_layer_is_named_in_the_singular(rule: str, measured: Measurements, said: str) -> None:
    assert said in (outcomes(judged(measured))[rule].reason or "")


def test_a_report_records_every_rule_in_the_catalogues_order() -> None:
    report = judged(chain((0.2,) * 5))
    assert report.schema_version == SCHEMA_VERSION
    assert [outcome.rule for outcome in report.rules] == [rule.id for rule in RULES]
    for outcome, rule in zip(report.rules, RULES, strict=True):
        assert (outcome.title, outcome.what, outcome.why) == (rule.title, rule.what, rule.why)
        assert (outcome.unit, outcome.source, outcome.compares) == (rule.unit, rule.reference, rule.compares)


def test_an_outcome_names_the_thresholds_that_were_used() -> None:
    policy = Policy(name="strict", rules={"vanishing_signal": RulePolicy(fail=1e-3)})
    measured = changed_parameter(chain((0.2,) * 5), "0.bias", status="frozen")
    default, strict = outcomes(judged(measured)), outcomes(judged(measured, policy))
    assert default["vanishing_signal"].thresholds == {"warn": 1e-3, "fail": 1e-6}
    assert strict["vanishing_signal"].thresholds == {"warn": 1e-3, "fail": 1e-3}
    assert (default["vanishing_signal"].severity, strict["vanishing_signal"].severity) == ("warn", "fail")
    assert default["frozen_parameter"].thresholds == {"info": 0.0}, "a rule without thresholds fires above zero"
    assert default["exploding_signal"].severity is None


def test_an_outcome_says_where_a_default_threshold_comes_from() -> None:
    policy = Policy(name="own", rules={"vanishing_signal": RulePolicy(warn=1e-2)})
    warned = RULE_OF["vanishing_signal"].warn
    assert warned is not None
    assert outcomes(judged(chain((0.2,) * 5)))["vanishing_signal"].threshold_source == warned.source
    assert outcomes(judged(chain((0.2,) * 5), policy))["vanishing_signal"].threshold_source is None
    assert outcomes(judged(chain()))["vanishing_signal"].threshold_source is None, "a rule that passed crossed nothing"


def test_only_the_rules_about_the_signal_are_required() -> None:
    required = {outcome.rule for outcome in judged(chain()).rules if outcome.is_required}
    assert required == {"vanishing_signal", "exploding_signal"}


def test_a_disabled_rule_is_listed_as_switched_off() -> None:
    policy = Policy(name="quiet", rules={"vanishing_signal": RulePolicy(enabled=False)})
    report = judged(chain((0.1,) * 9), policy)
    assert [outcome.rule for outcome in report.rules if outcome.outcome == "switched_off"] == ["vanishing_signal"]
    assert all(finding.rule != "vanishing_signal" for finding in report.findings)


def test_a_stored_report_is_judged_again_without_computing_anything() -> None:
    stored = from_json(Report, judged(chain((0.2,) * 5)).model_dump_json())
    assert stored.verdict == "warn"
    strict = Policy(name="strict", rules={"vanishing_signal": RulePolicy(fail=1e-3)})
    again = rejudge(stored, strict)
    assert again.verdict == "fail"
    assert again.findings[0].threshold == 1e-3
    assert (again.layers, again.parameters, again.inspection) == (stored.layers, stored.parameters, "insp_1")


def test_judging_again_under_the_same_policy_changes_nothing() -> None:
    settings = InspectionSettings(optimizer=Sgd(type="sgd", lr=0.1))
    report = judge(chain((0.2,) * 5), policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=settings)
    assert rejudge(report, DEFAULT_POLICY, settings=settings) == report


def test_a_judged_report_is_a_valid_document() -> None:
    report = judged(chain((0.01,) * 5))
    assert from_json(Report, report.model_dump_json()) == report


def test_sections_that_were_not_measured_stay_unset() -> None:
    assert "noise" not in judged(chain()).model_fields_set


def test_the_headline_prefers_the_cause_to_its_consequences() -> None:
    measured = changed_parameter(chain((0.2,) * 5), "1.weight", grad_norm=1e-9)
    report = judged(measured, settings=InspectionSettings(optimizer=Sgd(type="sgd", lr=0.1)))
    assert report.findings[0].rule == "uneven_gradients"
    assert headline(report).startswith("The backward signal shrinks 3,100-fold from output to input")


def test_the_headline_of_a_healthy_network_has_a_number_too() -> None:
    assert headline(judged(chain((0.9,) * 5))) == (
        "Gradients flow: over 6 layer calls the backward signal arrives with 0.59 times its size at the output."
    )


@given(
    gains=st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=30),
    exponent=st.integers(-6, 6),
    sgd=st.booleans(),
)
def test_multiplying_the_loss_changes_no_verdict(gains: list[float], exponent: int, sgd: bool) -> None:
    settings = InspectionSettings(optimizer=Sgd(type="sgd") if sgd else None)
    measured = chain(tuple(gains))
    before = judged(measured, settings=settings)
    after = judged(rescaled(measured, 10.0**exponent), settings=settings)
    assert before.verdict == after.verdict
    rules = [[finding.rule for finding in side.findings if finding.severity != "info"] for side in (before, after)]
    assert rules[0] == rules[1]


@pytest.mark.parametrize(("predicted", "measured_gain"), [(1e-300, 1e300), (1e300, 1e-300)])
def test_gains_whose_quotient_overflows_leave_their_rule_not_judged(predicted: float, measured_gain: float) -> None:
    measured = chain()
    for name in ("0", "1", "2"):
        measured = changed(measured, name, predicted_chi1=predicted, measured_chi1=measured_gain)
    reason = outcomes(judged(measured))["initialization_mismatch"].reason
    assert reason == "a measured gain over its prediction, or its inverse, is larger than any number"


NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
SHARES = st.none() | st.floats(0, 1)
TEXTS = st.text(min_size=1, max_size=256)
AMPLITUDES = st.none() | st.builds(ActivationStatistics, mean=NUMBERS, std=NUMBERS, rms=NUMBERS, abs_max=NUMBERS)
ANY_LAYER = st.builds(
    LayerMeasurement, depth=st.integers(0, 9), name=TEXTS, call=st.integers(0, 3),
    kind=st.sampled_from(["Linear", "BatchNorm1d", "Embedding", "Conv2d"]) | TEXTS,
    parameters=st.lists(st.sampled_from(["a.weight", "a.bias", "b"]), max_size=3).map(tuple),
    output_shape=st.lists(st.integers(0, 2**40), max_size=4).map(tuple), activation=AMPLITUDES,
    preactivation=AMPLITUDES, nonlinearity=st.none() | st.sampled_from(["relu", "tanh", "sigmoid"]) | TEXTS,
    signal=st.none() | st.builds(SignalStatistics, norm=NUMBERS, rms=NUMBERS), forward_gain=NUMBERS,
    backward_gain=NUMBERS, activation_gain=NUMBERS, weight_gain=NUMBERS, cumulative_backward_gain=NUMBERS,
    dead_unit_fraction=SHARES, saturated_fraction=SHARES, mean_squared_slope=NUMBERS, sample_similarity=NUMBERS,
    nonfinite_count=st.integers(0, 2), predicted_chi1=NUMBERS, measured_chi1=NUMBERS,
)  # fmt: skip
ANY_PARAMETER = st.builds(
    ParameterMeasurement, name=st.sampled_from(["a.weight", "a.bias", "b"]) | TEXTS, aliases=st.just(()), layer=TEXTS,
    shape=st.lists(st.integers(0, 9), max_size=3).map(tuple), numel=st.integers(0, 9), dtype=st.just("float32"),
    status=st.sampled_from(["trained", "frozen", "unused", "zero"]), grad_norm=NUMBERS, grad_rms=NUMBERS,
    grad_mean=NUMBERS, grad_std=NUMBERS, grad_abs_max=NUMBERS, grad_abs_mean=NUMBERS,
    grad_quantiles=st.none(), log2_histogram=st.none(), zero_fraction=SHARES, nan_count=st.integers(0, 1),
    inf_count=st.integers(0, 1), weight_norm=NUMBERS, weight_rms=NUMBERS, weight_nonfinite_count=st.integers(0, 1),
    grad_to_weight=NUMBERS, update_norm=NUMBERS, update_to_weight=NUMBERS, grad_snr=NUMBERS, noise_scale=NUMBERS,
    fp16_flush_fraction=SHARES, bf16_flush_fraction=SHARES,
)  # fmt: skip


@given(layers=st.lists(ANY_LAYER, max_size=8), parameters=st.lists(ANY_PARAMETER, max_size=6), loss=NUMBERS)
def test_extreme_measurements_from_a_hostile_child_never_fail_the_judge(
    layers: list[LayerMeasurement], parameters: list[ParameterMeasurement], loss: float | None
) -> None:
    settings = InspectionSettings(optimizer=Sgd(type="sgd"))
    measured = measurements(layers, parameters, loss=loss, expected=loss)
    report = judge(measured, policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=settings)
    assert from_json(Report, report.model_dump_json()) == report
    assert headline(report)
