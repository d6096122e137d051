"""Every rule: measurements on which it fires, a near miss, and the same network with its loss multiplied."""

import math
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from gradinspect.contracts.optimizers import Adam, Sgd
from gradinspect.contracts.report.losses import LossTerm, TermLayer
from gradinspect.contracts.report.report import Finding, Measurements
from gradinspect.contracts.report.rows import ActivationStatistics, SignalStatistics
from gradinspect.contracts.report.sections import (
    Curvature,
    LayerCurvature,
    LrScales,
    Noise,
    PrecisionSection,
    TimeDecay,
    TracePoint,
)
from gradinspect.contracts.report.setup import (
    BatchTensor,
    OptimizerObject,
    OutputHead,
    ParameterStep,
    RepeatedRows,
    Setup,
    UnregisteredTensor,
)
from gradinspect.contracts.report.trial import Trial, TrialArm
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.words.remedy_words import remedy_in_words
from gradinspect.rules import DEFAULT_POLICY, RULE_IDS, RULES, judge
from gradinspect.testing.measurements import (
    MODEL,
    chain,
    changed,
    changed_parameter,
    layer,
    measurements,
    parameter,
    rescaled,
)

SETTINGS = InspectionSettings()
SGD = InspectionSettings(optimizer=Sgd(type="sgd", lr=0.1))


@dataclass(frozen=True)
class Case:
    fires: Measurements
    near_miss: Measurements
    severity: str
    names: str  # a layer or parameter that the message must name
    settings: InspectionSettings = field(default=SETTINGS)


def preactivations(*spreads: float) -> Measurements:
    measured = chain((1.0,) * len(spreads))
    for depth, std in enumerate(spreads):
        measured = changed(measured, str(depth), preactivation=ActivationStatistics(std=std))
    return measured


def chi1(measured_over_predicted: float) -> Measurements:
    measured = chain()
    for depth in range(5):
        measured = changed(measured, str(depth), predicted_chi1=0.5, measured_chi1=0.5 * measured_over_predicted)
    return measured


def updates(ratio: float) -> Measurements:
    measured = chain()
    for depth in range(6):
        measured = changed_parameter(measured, f"{depth}.weight", update_norm=ratio * 10, update_to_weight=ratio)
    return measured


def flushed(share: float) -> Measurements:
    section = PrecisionSection(
        compute="float32", intended="float16", loss_scale=1.0, fp16_flush_fraction=share, bf16_flush_fraction=0.0,
        loss_scale_window=(2.0**4, 2.0**20),
    )  # fmt: skip
    return changed_parameter(chain(precision=section), "2.weight", fp16_flush_fraction=share)


def largest_gradient(value: float) -> Measurements:
    section = PrecisionSection(compute="float32", intended="float16", loss_scale=1024.0, fp16_flush_fraction=0.0)
    return changed_parameter(chain(precision=section), "3.weight", grad_abs_max=value)


def curved(eigenvalue: float) -> Measurements:
    layers = (LayerCurvature(layer="1", top_eigenvalue=eigenvalue),)
    return chain(curvature=Curvature(top_eigenvalue=eigenvalue, layers=layers))


def noisy(scale: float) -> Measurements:
    return changed_parameter(chain(noise=Noise(batch_size=128, noise_scale=scale)), "2.weight", noise_scale=scale)


def terms(ratio: float, cosine: float = 0.0) -> Measurements:
    def term(name: str, norm: float) -> LossTerm:
        layers = (TermLayer(layer="0", grad_norm=norm, cosine=cosine), TermLayer(layer=name, grad_norm=1e6))
        return LossTerm(name=name, value=1.0, grad_norm=norm, cosine=cosine, shared_cosine=cosine, layers=layers)

    return chain(losses=(term("large", ratio), term("small", 1.0)))


def surrounded(**fields: Any) -> Measurements:
    return chain(setup=Setup(**fields))


def entering(rms: float, **fields: Any) -> Measurements:
    tensor = BatchTensor(
        name="input 0", role="input", dtype="float32", shape=(128, 64), feature_axis=1, mean=0.0, std=rms, rms=rms,
        layers=("0",), **fields,
    )  # fmt: skip
    return surrounded(tensors=(tensor,))


def regression(rms: float) -> Measurements:
    target = BatchTensor(name="target", role="target", dtype="float32", shape=(128, 1), mean=0.0, std=rms, rms=rms)
    return surrounded(tensors=(target,), heads=(OutputHead(loss_function="mse"),))


def head(loss: str, **fields: Any) -> Measurements:
    return surrounded(heads=(OutputHead(loss_function=loss, **fields),))


def repeating(share: float) -> Measurements:
    return surrounded(repeated_rows=(RepeatedRows(parameter="1.weight", share=share),))


def stepped(lost: float) -> Measurements:
    measured = updates(0.001)
    steps = [ParameterStep(parameter=row.name, dtype="bfloat16", lost_fraction=lost) for row in measured.parameters]
    return measured.model_copy(update={"setup": Setup(steps=tuple(steps))})


def held(missing: tuple[str, ...]) -> Measurements:
    return surrounded(optimizer=OptimizerObject(name="SGD", missing=missing, missing_count=len(missing)))


def traced(last_gradient: float, last_loss: float = 1.0) -> Measurements:
    points = tuple(
        TracePoint(step=step, loss=1.0 if step < 9 else last_loss, total_grad_norm=1.0 if step < 9 else last_gradient,
                   layer_grad_norms=(1.0,))
        for step in range(10)
    )  # fmt: skip
    return chain(time_decay=TimeDecay(layers=("0",), trace=points))


def trained(skill: float, **fields: Any) -> Measurements:  # Any: fields of a trial
    arm = TrialArm(optimizer="adam", lr=1e-3, outcome="does_not_learn", skill=skill, steps=60)
    return chain(trial=Trial(**{"verdict": "does_not_learn", "arms": (arm,), "unmoved_layers": ("1",), **fields}))


def declared(steps: float) -> Measurements:
    arms = (
        TrialArm(optimizer="sgd", lr=0.1, declared=True, outcome="does_not_learn", skill=0.0, steps=60),
        TrialArm(optimizer="sgd", lr=1.0, outcome="learns", skill=0.5, steps=20),
    )
    return chain(trial=Trial(verdict="other_rate", arms=arms, steps_at_declared_rate=steps))


def batch_norms(growth: float) -> Measurements:
    rows = [
        layer(depth, kind="BatchNorm1d", signal=SignalStatistics(norm=growth ** (4 - depth)),
              cumulative_backward_gain=growth ** (4 - depth))
        for depth in range(5)
    ]  # fmt: skip
    return measurements(rows, [parameter(f"{depth}.weight", shape=(64,), numel=64) for depth in range(5)])


CASES = {
    "non_finite": Case(changed(chain(), "2", nonfinite_count=3), chain(), "fail", "`2`"),
    "vanishing_signal": Case(chain((0.2,) * 5), chain((0.26,) * 5), "warn", "`0`"),
    "exploding_signal": Case(chain((2.4,) * 5), chain((2.3,) * 5), "warn", "`0`"),
    "uneven_gradients": Case(
        changed_parameter(chain(), "1.weight", grad_norm=0.5 / 110),
        changed_parameter(chain(), "1.weight", grad_norm=0.5 / 90),
        "warn", "`1`", SGD,
    ),
    "poor_initialization": Case(preactivations(1, 0.5, 0.03), preactivations(1, 0.5, 0.033), "warn", "`2`"),
    "initialization_mismatch": Case(chi1(1.3), chi1(1.2), "warn", "`0`"),
    "dead_units": Case(
        changed(chain(), "2", dead_unit_fraction=0.25), changed(chain(), "2", dead_unit_fraction=0.19), "warn", "`2`"
    ),
    "correlation_collapse": Case(
        changed(chain(), "3", sample_similarity=0.96), changed(chain(), "3", sample_similarity=0.94), "info", "`3`"
    ),
    "saturated_activation": Case(
        changed(chain(nonlinearity="tanh"), "1", saturated_fraction=0.3),
        changed(chain(nonlinearity="tanh"), "1", saturated_fraction=0.19),
        "warn", "`1`",
    ),
    "input_scale": Case(entering(20.1), entering(19.9), "warn", "`0`"),
    "target_scale": Case(regression(0.049), regression(0.051), "warn", "target"),
    "target_shape": Case(
        head("mse", output_shape=(8, 1), target_shape=(8,), compared_shape=(8, 8)), head("mse"), "warn", "(8, 8)"
    ),
    "output_activation": Case(
        head("cross_entropy", last_operation="softmax"),
        head("cross_entropy", last_operation="log_softmax"),  # twice is the same as once
        "warn", "`softmax`",
    ),
    "batch_statistics": Case(
        surrounded(conflicting_samples=0.11), surrounded(conflicting_samples=0.09), "warn", "11 %"
    ),
    "symmetry": Case(repeating(0.51), repeating(0.49), "warn", "`1.weight`"),
    "unregistered_parameter": Case(
        surrounded(unregistered=(UnregisteredTensor(name="blocks[0].weight", shape=(4, 4)),)), chain(),
        "warn", "`blocks[0].weight`",
    ),
    "optimizer_misses_parameter": Case(held(("1.weight",)), held(()), "warn", "`1.weight`"),
    "optimizer_step": Case(stepped(0.011), stepped(0.009), "warn", "`0.weight`", SGD),
    "training_decay": Case(traced(0.009), traced(0.011), "warn", "10 steps"),
    "zero_gradient": Case(
        changed_parameter(chain(), "1.weight", zero_fraction=0.8),
        changed_parameter(chain(), "1.weight", zero_fraction=0.69),
        "warn", "`1.weight`",
    ),
    "unused_parameter": Case(changed_parameter(chain(), "4.weight", status="unused"), chain(), "warn", "`4.weight`"),
    "frozen_parameter": Case(changed_parameter(chain(), "0.weight", status="frozen"), chain(), "info", "`0.weight`"),
    "does_not_learn": Case(trained(0.29, verdict="slow"), trained(0.31, verdict="slow"), "warn", "`1`"),
    "learning_rate": Case(declared(1.1e4), declared(0.9e4), "warn", "SGD at 1 learns", SGD),
    "update_ratio": Case(updates(0.2), updates(0.09), "warn", "`0.weight`", SGD),
    "low_precision_underflow": Case(flushed(0.02), flushed(0.009), "warn", "`2.weight`"),
    "low_precision_overflow": Case(largest_gradient(64.1), largest_gradient(63.9), "fail", "`3.weight`"),
    "sharpness": Case(curved(21.0), curved(19.0), "warn", "learning rate 0.1", SGD),
    "initial_loss": Case(chain(loss=4.7), chain(loss=4.5), "warn", "`5`"),
    "loss_balance": Case(terms(31.0), terms(29.0), "warn", "`large`"),
    "noise_dominated": Case(noisy(1300.0), noisy(1270.0), "info", "128 samples"),
    "normalization_growth": Case(batch_norms(1.21), batch_norms(1.19), "info", "`0`"),
    "absolute_gradient_floor": Case(
        changed_parameter(chain(), "1.weight", grad_abs_mean=9e-8),
        changed_parameter(chain(), "1.weight", grad_abs_mean=1.1e-7),
        "info", "`1.weight`",
    ),
}  # fmt: skip
# These compare the loss with a declared number, or use an absolute threshold on purpose.
DECLARED = {"update_ratio", "sharpness", "low_precision_underflow", "low_precision_overflow", "absolute_gradient_floor"}


def finding(measured: Measurements, rule: str, settings: InspectionSettings = SETTINGS) -> Finding | None:
    report = judge(measured, policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=settings)
    return next((found for found in report.findings if found.rule == rule), None)


def test_every_rule_has_a_case() -> None:
    assert set(CASES) == set(RULE_IDS) == {rule.id for rule in RULES}


@pytest.mark.parametrize("rule", RULE_IDS)
def test_it_fires_with_a_number_and_a_layer(rule: str) -> None:
    case = CASES[rule]
    found = finding(case.fires, rule, case.settings)
    assert found is not None
    assert found.severity == case.severity
    assert case.names in found.message
    assert found.value is not None
    assert found.explanation


@pytest.mark.parametrize("rule", RULE_IDS)
def test_it_is_silent_on_a_near_miss(rule: str) -> None:
    case = CASES[rule]
    assert finding(case.near_miss, rule, case.settings) is None


@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("rule", [rule for rule in RULE_IDS if rule not in DECLARED])
def test_it_says_the_same_when_the_loss_is_multiplied(rule: str, factor: float) -> None:
    case = CASES[rule]
    found = finding(rescaled(case.fires, factor), rule, case.settings)
    assert found is not None
    assert found.severity == case.severity
    assert finding(rescaled(case.near_miss, factor), rule, case.settings) is None


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_absolute_floor_never_changes_a_verdict(factor: float) -> None:
    report = judge(rescaled(chain(), factor), policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=SETTINGS)
    assert report.verdict == "pass"


@pytest.mark.parametrize("rule", RULE_IDS)
def test_findings_explain_and_carry_no_code(rule: str) -> None:
    found = finding(CASES[rule].fires, rule, CASES[rule].settings)
    assert found is not None
    assert found.remedy is None or found.remedy.code is None


def test_a_vanished_signal_is_a_failure_below_a_millionth() -> None:
    found = finding(chain((0.05,) * 5), "vanishing_signal")
    assert found is not None
    assert (found.severity, found.threshold) == ("fail", 1e-6)
    assert found.value == pytest.approx(0.05**5)


def test_the_starved_layers_are_those_before_the_first_good_one() -> None:
    found = finding(chain((0.01, 0.1, 0.1, 0.1, 1.0, 1.0)), "vanishing_signal")
    assert found is not None
    assert found.layers == ("0",)
    assert "the first layer (`0`) barely learns" in found.message


def test_a_signal_of_exactly_zero_fails_and_names_the_layer_where_it_ends() -> None:
    measured = chain()
    for depth in range(3):
        measured = changed(
            measured, str(depth), signal=SignalStatistics(norm=0.0, rms=0.0), cumulative_backward_gain=0.0,
            backward_gain=0.0 if depth == 2 else None, activation_gain=None, weight_gain=None,
            dead_unit_fraction=1.0 if depth == 2 else 0.0,
        )  # fmt: skip
    found = finding(measured, "vanishing_signal")
    assert found is not None
    assert found.severity == "fail"
    assert "All units of `2` are zero" in found.explanation


def test_a_zero_initialised_head_is_not_called_vanishing() -> None:
    measured = chain()
    for depth in range(5):
        measured = changed(
            measured, str(depth), signal=SignalStatistics(norm=0.0, rms=0.0), cumulative_backward_gain=0.0,
            backward_gain=None, activation_gain=None, weight_gain=None,
        )  # fmt: skip
        measured = changed_parameter(measured, f"{depth}.weight", status="zero", grad_norm=0.0, zero_fraction=1.0)
    measured = changed_parameter(measured, "5.weight", weight_norm=0.0, grad_to_weight=None)
    report = judge(measured, policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=SETTINGS)
    assert report.verdict == "undetermined"
    zero = next(found for found in report.findings if found.rule == "zero_gradient")
    assert zero.severity == "info"
    assert "`5.weight` starts at zero" in zero.message


def test_fading_over_the_calls_of_one_layer_is_judged_one_level_milder() -> None:
    rows = [
        layer(step, name="rnn", call=step, signal=SignalStatistics(norm=0.1 ** (9 - step)),
              cumulative_backward_gain=0.1 ** (9 - step), backward_gain=0.1)
        for step in range(10)
    ]  # fmt: skip
    rows.append(layer(10, name="head", signal=SignalStatistics(norm=1.0), cumulative_backward_gain=1.0))
    found = finding(measurements(rows, [parameter("rnn.weight"), parameter("head.weight")]), "vanishing_signal")
    assert found is not None
    assert found.severity == "warn"
    assert "10 calls of `rnn`" in found.message


def test_uneven_gradients_leave_out_biases_norms_tables_and_zero_weights() -> None:
    measured = chain()
    measured = changed_parameter(measured, "0.bias", grad_norm=1e-9, weight_norm=1.0)
    measured = changed_parameter(measured, "1.weight", weight_norm=0.0)
    measured = changed(measured, "2", kind="LayerNorm")
    measured = changed_parameter(measured, "2.weight", grad_norm=1e-9)
    measured = changed(measured, "3", kind="Embedding")
    measured = changed_parameter(measured, "3.weight", grad_norm=1e-9)
    assert finding(measured, "uneven_gradients") is None


def test_uneven_gradients_leave_out_weights_in_front_of_a_batch_normalisation() -> None:
    measured = changed_parameter(chain(), "1.weight", grad_norm=1e-6)
    assert finding(measured, "uneven_gradients") is not None
    assert finding(changed(measured, "2", kind="BatchNorm1d"), "uneven_gradients") is None


def test_uneven_gradients_leave_out_side_branches() -> None:
    measured = changed(chain(), "2", cumulative_backward_gain=0.01)
    assert finding(changed_parameter(measured, "2.weight", grad_norm=1e-4), "uneven_gradients") is None


@pytest.mark.parametrize(
    ("settings", "severity"),
    [(InspectionSettings(optimizer=Adam(type="adam")), "info"), (SETTINGS, "info"), (SGD, "fail")],
)
def test_uneven_gradients_are_an_alarm_only_for_an_optimizer_that_keeps_their_size(
    settings: InspectionSettings, severity: str
) -> None:
    found = finding(changed_parameter(chain(), "1.weight", grad_norm=1e-5), "uneven_gradients", settings)
    assert found is not None
    assert found.severity == severity


def test_uneven_gradients_leave_out_a_head_drawn_near_zero() -> None:
    # ‖g‖/‖w‖ is a thousand times that of the others, because ‖w‖ is a thousandth.
    small = changed_parameter(chain(), "5.weight", weight_norm=0.01, weight_rms=0.01 / 64)
    assert finding(small, "uneven_gradients") is None
    assert finding(changed_parameter(chain(), "5.weight", weight_norm=0.01), "uneven_gradients") is not None


@pytest.mark.parametrize(
    ("scales", "optimizer", "words"),
    [
        (None, None, "Let gradinspect suggest learning-rate scales (lr_scales, --lr-scales), or use Adam."),
        (LrScales(verdict="use"), None, "Use the learning-rate scales that this report suggests, or Adam."),
        (
            LrScales(verdict="keep_uniform"),
            None,
            "Use Adam; the learning-rate scales of this report were not found to help.",
        ),
        (LrScales(verdict="keep_uniform"), Adam(type="adam"), None),
    ],
)
def test_a_report_with_scales_is_not_advised_to_ask_for_them(
    scales: LrScales | None, optimizer: Adam | None, words: str | None
) -> None:
    measured = changed_parameter(chain(lr_scales=scales), "1.weight", grad_norm=1e-5)
    found = finding(measured, "uneven_gradients", InspectionSettings(optimizer=optimizer))
    assert found is not None
    assert (remedy_in_words(found.remedy) if found.remedy is not None else None) == words


def test_units_that_are_off_because_samples_are_parallel_do_not_count_as_dead() -> None:
    measured = changed(chain(), "4", dead_unit_fraction=0.3, sample_similarity=0.96)
    assert finding(measured, "dead_units") is None
    found = finding(measured, "correlation_collapse")
    assert found is not None
    assert "30 % of its units are off" in found.message


@pytest.mark.parametrize(("share", "width", "fires"), [(0.68, 64, False), (0.70, 64, True), (0.68, 4096, True)])
def test_a_share_of_dead_units_within_three_standard_deviations_of_chance_is_no_finding(
    share: float, width: int, fires: bool
) -> None:
    # Parallel samples turn each unit off with probability ½: 3σ of 64 units is 0.1875, of 4,096 units 0.023.
    measured = changed(chain(), "4", dead_unit_fraction=share, sample_similarity=0.96, output_shape=(128, width))
    assert (finding(measured, "dead_units") is not None) == fires


def test_a_value_too_large_for_a_float_is_reported_as_the_largest_one() -> None:
    measured = changed_parameter(chain(), "1.weight", grad_norm=1e300)
    result = finding(changed_parameter(measured, "2.weight", grad_norm=1e-300), "uneven_gradients")
    assert result is not None
    assert result.value == sys.float_info.max


def test_more_than_half_of_the_units_off_is_dying_however_parallel_the_samples() -> None:
    found = finding(changed(chain(), "4", dead_unit_fraction=0.8, sample_similarity=0.99), "dead_units")
    assert found is not None
    assert found.severity == "fail"


def test_trained_weights_are_not_judged_as_an_initialisation() -> None:
    trained = chi1(3.0).model_copy(update={"summary": chain(loss=0.1).summary})
    assert finding(trained, "initialization_mismatch") is None


def test_widely_scattered_layers_do_not_make_a_mismatch() -> None:
    measured = chain()
    for depth, ratio in enumerate((0.4, 3.0, 0.5, 3.5, 1.6)):
        measured = changed(measured, str(depth), predicted_chi1=1.0, measured_chi1=ratio)
    assert finding(measured, "initialization_mismatch") is None


def test_an_update_ratio_that_is_too_small_is_judged_by_the_median() -> None:
    assert finding(changed_parameter(updates(1e-3), "0.weight", update_to_weight=1e-6), "update_ratio", SGD) is None
    found = finding(updates(1e-5), "update_ratio", SGD)
    assert found is not None
    assert found.remedy is None  # no rate that was not tried is printed


def test_a_learning_rate_divided_by_the_loss_scale_keeps_the_verdict() -> None:
    case = CASES["sharpness"]
    slower = InspectionSettings(optimizer=Sgd(type="sgd", lr=0.1e-6))
    found = finding(curved(21.0e6), "sharpness", slower)
    assert found is not None
    unscaled = finding(case.fires, "sharpness", SGD)
    assert unscaled is not None
    assert found.value == pytest.approx(unscaled.value)


def test_momentum_raises_the_largest_stable_learning_rate() -> None:
    momentum = InspectionSettings(optimizer=Sgd(type="sgd", lr=0.1, momentum=0.9))
    assert finding(curved(37.0), "sharpness", momentum) is None
    assert finding(curved(39.0), "sharpness", momentum) is not None


def test_the_loss_scale_of_the_remedy_is_in_the_window() -> None:
    found = finding(flushed(0.02), "low_precision_underflow")
    assert found is not None
    assert found.remedy is not None
    scale = found.remedy.arguments["loss_scale"]
    assert 2.0**4 <= scale <= 2.0**20
    assert math.log2(scale).is_integer()


def test_non_finite_weights_are_named_before_their_consequences() -> None:
    measured = changed(changed(chain(), "1", nonfinite_count=5), "2", nonfinite_count=9)
    measured = changed_parameter(measured, "1.weight", weight_nonfinite_count=1)
    found = finding(measured, "non_finite")
    assert found is not None
    assert found.message == "1 value of the weight `1.weight` is NaN or infinite."


def test_non_finite_gradients_are_traced_to_the_parameter_nearest_the_loss() -> None:
    measured = changed_parameter(changed_parameter(chain(), "1.weight", nan_count=4), "3.weight", inf_count=1)
    found = finding(measured, "non_finite")
    assert found is not None
    assert "from `3.weight` on back" in found.message


def test_terms_that_pull_against_each_other_are_named_with_the_layers_they_fight_over() -> None:
    fires, silent = (judged(terms(2.0, cosine)) for cosine in (-0.51, -0.49))
    assert [finding.rule for finding in fires] == ["loss_balance"]
    assert fires[0].layers == ("0",)
    assert "`large` pulls against `small`" in fires[0].message
    assert silent == ()


def judged(measured: Measurements) -> tuple[Finding, ...]:
    return judge(measured, policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=SETTINGS).findings
