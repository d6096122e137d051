"""Verdicts by what a learning trial shows: a row of the table for each test."""

from __future__ import annotations

from typing import Any

import pytest

from gradinspect.contracts.optimizers import Sgd
from gradinspect.contracts.report.outcomes import RuleOutcome
from gradinspect.contracts.report.report import Measurements, Report
from gradinspect.contracts.report.trial import SWITCHED_OFF, Trial, TrialArm, TrialCheck
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.words.headline import headline
from gradinspect.rules import DEFAULT_POLICY, RULES, judge, rejudge
from gradinspect.testing.measurements import MODEL, chain, changed, changed_parameter

VANISHES = (0.01,) * 5  # a signal of 1e-10
INFERRED = Policy(name="inferred", verdicts="inferred")
MOVED = (TrialCheck(name="weights_moved", passed=True),)
LEARNS = TrialArm(optimizer="adam", lr=1e-3, outcome="learns", skill=0.6, steps=20)
PLATEAU = TrialArm(optimizer="sgd", momentum=0.9, lr=0.01, outcome="does_not_learn", skill=0.01, steps=60)


def trial(verdict: str, **fields: Any) -> Trial:  # Any: fields of a trial
    arms = {"learns": (LEARNS,), "other_rate": (PLATEAU, LEARNS), "other_optimizer": (PLATEAU, LEARNS)}
    return Trial(**{"verdict": verdict, "arms": arms.get(verdict, (PLATEAU,)), "checks": MOVED, **fields})


def judged(measured: Measurements, shown: Trial | None, policy: Policy = DEFAULT_POLICY) -> Report:
    measured = measured.model_copy(update={"trial": shown})
    return judge(measured, policy=policy, model=MODEL, inspection=None, settings=InspectionSettings())


def outcome(report: Report, rule: str) -> RuleOutcome:
    return next(each for each in report.rules if each.rule == rule)


def test_what_is_inferred_is_outvoted_where_the_model_learns() -> None:
    report = judged(chain(VANISHES), trial("learns"))
    assert report.verdict == "pass"
    rule = outcome(report, "vanishing_signal")
    assert (rule.outcome, rule.severity, rule.inferred_severity) == ("outvoted", "info", "fail")
    assert rule.reason == "the model learns in spite of it"
    assert [f.severity for f in report.findings if f.rule == "vanishing_signal"] == ["info"]


def test_the_structure_is_judged_whatever_the_trial_shows() -> None:
    broken = changed(chain(), "2", nonfinite_count=3)
    assert judged(broken, trial("learns")).verdict == "fail"
    assert judged(broken, trial("undetermined", status="undetermined", reason="budget: …")).verdict == "fail"
    unused = changed_parameter(chain(), "4.weight", status="unused")
    assert judged(unused, trial("learns")).verdict == "warn"


def test_harm_that_one_batch_cannot_show_stays_a_warning() -> None:
    saturated = changed(chain(nonlinearity="tanh"), "1", saturated_fraction=0.8)
    report = judged(saturated, trial("learns"))
    assert report.verdict == "warn"
    rule = outcome(report, "saturated_activation")
    assert (rule.outcome, rule.severity, rule.inferred_severity) == ("finding", "warn", "fail")


@pytest.mark.parametrize(("moved", "verdict"), [(True, "pass"), (False, "fail")])
def test_a_parameter_without_a_gradient_is_excused_if_every_layer_moved(moved: bool, verdict: str) -> None:
    measured = changed_parameter(chain(), "1.weight", status="zero", zero_fraction=1.0, grad_norm=0.0)
    checks = (TrialCheck(name="weights_moved", passed=moved),)
    assert judged(measured, trial("learns", checks=checks)).verdict == verdict


def test_no_run_learns() -> None:
    report = judged(chain(), trial("does_not_learn"))
    assert report.verdict == "fail"
    assert headline(report).startswith("It does not learn: the best of 1 run on its own batch, SGD with momentum 0.9")


def test_rules_keep_their_severity_where_nothing_learns() -> None:
    report = judged(chain(VANISHES), trial("does_not_learn"))
    assert {f.rule: f.severity for f in report.findings}["vanishing_signal"] == "fail"
    assert headline(report).startswith("The backward signal shrinks")  # the cause comes first


def test_a_network_that_learns_with_adam_only_is_a_warning_with_its_reason() -> None:
    report = judged(chain(VANISHES), trial("other_optimizer"))
    assert report.verdict == "warn"
    assert {"vanishing_signal", "learning_rate"} <= {f.rule for f in report.findings if f.severity == "warn"}


@pytest.mark.parametrize(("outcome", "verdict"), [("diverges", "fail"), ("does_not_learn", "fail"), ("slow", "warn")])
def test_a_declared_rate_at_which_the_model_does_not_learn(outcome: Any, verdict: str) -> None:
    declared = TrialArm(optimizer="sgd", lr=10.0, declared=True, outcome=outcome, skill=0.0, steps=60)
    slower = TrialArm(optimizer="sgd", lr=0.1, outcome="learns", skill=0.6, steps=30)
    report = judged(chain(VANISHES), trial("other_rate", arms=(declared, slower)))
    assert report.verdict == verdict
    assert "SGD at 0.1 learns it in 30 steps" in headline(report)
    assert outcome_of(report, "vanishing_signal") == "outvoted"


def outcome_of(report: Report, rule: str) -> str:
    return outcome(report, rule).outcome


def test_a_small_declared_rate_is_fine_if_thousands_of_steps_suffice() -> None:
    declared = TrialArm(optimizer="sgd", lr=0.01, declared=True, outcome="undetermined", skill=0.0, steps=60)
    faster = TrialArm(optimizer="sgd", lr=0.1, outcome="learns", skill=0.6, steps=80)
    report = judged(chain(), trial("other_rate", arms=(declared, faster), steps_at_declared_rate=800.0))
    assert report.verdict == "pass"


@pytest.mark.parametrize("reason", [SWITCHED_OFF, "budget: needs about 9 s, 2 s are left"])
def test_without_a_trial_a_failure_is_a_warning_and_the_headline_says_so(reason: str) -> None:
    report = judged(chain(VANISHES), Trial(status="undetermined", reason=reason))
    assert report.verdict == "warn"
    assert outcome(report, "vanishing_signal").inferred_severity == "fail"
    assert "not tried" in headline(report)


def test_a_pass_without_a_trial_says_so_too() -> None:
    report = judged(chain(), Trial(status="undetermined", reason=SWITCHED_OFF))
    assert report.verdict == "pass"
    assert "not tried" in headline(report)


def test_a_policy_can_ask_for_inferred_severities() -> None:
    assert judged(chain(VANISHES), trial("learns"), INFERRED).verdict == "fail"
    assert judged(chain(VANISHES), Trial(status="undetermined", reason=SWITCHED_OFF), INFERRED).verdict == "fail"


def test_a_report_of_an_older_release_is_judged_as_it_was() -> None:
    assert judged(chain(VANISHES), None).verdict == "fail"


def test_a_stored_report_can_be_judged_by_the_other_kind_of_policy() -> None:
    report = judged(chain(VANISHES), trial("learns"))
    assert rejudge(report, INFERRED).verdict == "fail"
    assert rejudge(rejudge(report, INFERRED), DEFAULT_POLICY).verdict == "pass"


def test_one_layer_that_learns_passes() -> None:
    assert judged(chain(()), None).verdict == "undetermined"
    assert judged(chain(()), trial("learns")).verdict == "pass"


def test_a_step_that_fails_fails() -> None:
    checks = (TrialCheck(name="second_backward", passed=False, detail="step 2 of training fails: RuntimeError"),)
    report = judged(chain(), trial("undetermined", status="undetermined", reason="step 2", checks=checks))
    assert report.verdict == "fail"
    assert headline(report).startswith("It cannot be trained: step 2 of training fails")


def test_an_update_ratio_is_outvoted_only_at_the_declared_rate() -> None:
    measured = chain()
    for depth in range(6):
        measured = changed_parameter(measured, f"{depth}.weight", update_norm=200.0, update_to_weight=20.0)
    settings = InspectionSettings(optimizer=Sgd(type="sgd", lr=0.1))
    for verdict, expected in (("learns", "outvoted"), ("other_rate", "finding")):
        shown = measured.model_copy(update={"trial": trial(verdict)})
        report = judge(shown, policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=settings)
        assert outcome_of(report, "update_ratio") == expected


def test_every_rule_says_what_becomes_of_it() -> None:
    kept = {rule.id for rule in RULES if rule.if_it_learns == "kept"}
    assert {"non_finite", "unused_parameter", "frozen_parameter", "does_not_learn", "learning_rate"} <= kept
    assert {rule.id: rule.if_it_learns for rule in RULES}["vanishing_signal"] == "outvoted"
