"""Policies: valid documents, and errors that name the rule and the field."""

import json

import pytest

from gradinspect.contracts.document import from_json, from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.rules import DEFAULT_POLICY, RULES, check_policy, complete, find_policy, judge
from gradinspect.testing.measurements import MODEL, chain


@pytest.mark.parametrize(
    ("rules", "pointer", "says"),
    [
        ({"vanishing": {}}, "/rules/vanishing", "unknown rule 'vanishing'"),
        ({"dead_units": {"limit": 0.3}}, "/rules/dead_units/limit", "unknown field"),
        ({"dead_units": {"warn": 30}}, "/rules/dead_units/warn", "a share between 0 and 1, got 30"),
        ({"dead_units": {"warn": -0.1}}, "/rules/dead_units/warn", "greater than or equal to 0"),
        ({"dead_units": {"warn": "0.1"}}, "/rules/dead_units/warn", "valid number"),
        ({"vanishing_signal": {"warn": 1e-6, "fail": 1e-3}}, "/rules/vanishing_signal/fail", "not fire before"),
        ({"vanishing_signal": {"warn": 1e-9}}, "/rules/vanishing_signal/warn", "must not fire before warn"),
        ({"exploding_signal": {"fail": 10}}, "/rules/exploding_signal/fail", "must not fire before warn"),
        ({"update_ratio": {"warn": 0.1}}, "/rules/update_ratio/warn", "takes a range"),
        ({"update_ratio": {"warn": [0.1, 0.01]}}, "/rules/update_ratio/warn", "low must be smaller"),
        ({"update_ratio": {"fail": [1e-3, 10]}}, "/rules/update_ratio/fail", "must not fire before warn"),
        ({"exploding_signal": {"warn": [1, 2]}}, "/rules/exploding_signal/warn", "one number, not a range"),
        ({"non_finite": {"fail": 3}}, "/rules/non_finite/fail", "has no threshold"),
        ({"dead_units": {"enabled": 1}}, "/rules/dead_units/enabled", "valid boolean"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_rule_and_field(rules: object, pointer: str, says: str) -> None:
    with pytest.raises(ProblemError) as caught:
        find_policy({"name": "mine", "rules": rules})
    assert pointer in [error.pointer for error in caught.value.errors]
    assert any(says in error.detail for error in caught.value.errors)


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ProblemError, match="not a JSON number"):
        from_json(Policy, '{"name": "mine", "rules": {"dead_units": {"warn": NaN}}}')


def test_a_policy_needs_a_name() -> None:
    with pytest.raises(ProblemError) as caught:
        from_python(Policy, {"rules": {}})
    assert caught.value.errors[0].pointer == "/name"


def test_an_unknown_built_in_policy_is_named() -> None:
    with pytest.raises(ProblemError, match="no built-in policy 'strict'"):
        find_policy("strict")


def test_the_default_policy_changes_nothing() -> None:
    assert find_policy("default") is DEFAULT_POLICY
    assert DEFAULT_POLICY.rules == {}


def test_null_switches_one_level_off() -> None:
    policy = find_policy({"name": "mine", "rules": {"vanishing_signal": {"fail": None}}})
    settings = InspectionSettings()
    report = judge(chain((0.01,) * 5), policy=policy, model=MODEL, inspection=None, settings=settings)
    assert report.verdict == "warn"


def test_a_level_that_a_rule_never_had_can_be_added() -> None:
    policy = find_policy({"name": "mine", "rules": {"noise_dominated": {"warn": 100}}})
    assert check_policy(policy) is policy


def test_a_policy_written_out_in_full_means_the_same() -> None:
    policy = find_policy({"name": "mine", "rules": {"vanishing_signal": {"warn": 0.01, "fail": None}}})
    full = from_json(Policy, complete(policy).model_dump_json(exclude_unset=True))
    assert set(full.rules) == {rule.id for rule in RULES}
    assert full.rules["vanishing_signal"].warn == 0.01
    for rule in RULES:
        assert rule.thresholds(full.rules[rule.id]) == rule.thresholds(policy.rules.get(rule.id)), rule.id
    assert check_policy(full)


def test_the_rules_own_defaults_are_in_order() -> None:
    full = complete(DEFAULT_POLICY)
    assert find_policy(json.loads(full.model_dump_json(exclude_unset=True))).rules == full.rules
