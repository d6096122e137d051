"""Policies by name or as documents, checked against the rules and their default thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from gradinspect.contracts.document import from_python
from gradinspect.contracts.field_errors import pointer
from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.request.policy import (
    DEFAULT_POLICY,
    LEVELS,
    Compares,
    Policy,
    RulePolicy,
    Severity,
    Threshold,
)
from gradinspect.rules.catalogue import RULE_IDS, RULES, RULES_BY_ID
from gradinspect.rules.rule import Rule


def find_policy(policy: str | dict[str, Any] | Policy) -> Policy:  # Any: JSON until it is validated
    """Return the policy for a built-in name, a document, or a policy.

    Raises:
        ProblemError: `invalid_request`, naming rule and field.
    """
    if isinstance(policy, str):
        if policy != DEFAULT_POLICY.name:
            detail = f"there is no built-in policy {policy!r}; use 'default', or give the policy itself"
            raise ProblemError("invalid_request", detail, errors=[FieldError("/policy", detail)])
        return DEFAULT_POLICY
    return check_policy(policy if isinstance(policy, Policy) else from_python(Policy, policy))


def check_policy(policy: Policy) -> Policy:
    """Check that a policy names known rules, and that their thresholds are possible and in the right order.

    Raises:
        ProblemError: `invalid_request`, naming rule and field.
    """
    errors = [
        FieldError(pointer(("rules", rule_id, *field)), detail)
        for rule_id, change in policy.rules.items()
        for field, detail in _problems(rule_id, change)
    ]
    if errors:
        raise ProblemError("invalid_request", f"{errors[0].pointer}: {errors[0].detail}", errors=errors)
    return policy


def complete(policy: Policy) -> Policy:
    """Return `policy` with every rule and threshold written out, as exported and shown."""
    rules: dict[str, RulePolicy] = {}
    for rule in RULES:
        change = policy.rules.get(rule.id)
        levels = rule.thresholds(change).levels
        # A level that the policy switches off is written as null; one that the rule never had is left out.
        shown: dict[str, Any] = {level: levels.get(level) for level in LEVELS if rule.default(level) or level in levels}
        rules[rule.id] = RulePolicy(enabled=change.enabled if change is not None else True, **shown)
    return policy.model_copy(update={"rules": rules})


def policy_file(policy: Policy) -> str:
    """Return a policy as the JSON text that `--policy` and the service read: every rule with its thresholds."""
    return complete(policy).model_dump_json(exclude_unset=True, indent=2) + "\n"


def _problems(rule_id: str, change: RulePolicy) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each wrong field of the rule (empty: the rule itself) and the mistake."""
    rule = RULES_BY_ID.get(rule_id)
    if rule is None:
        yield (), f"unknown rule {rule_id!r}; known are {', '.join(RULE_IDS)}"
        return
    wrong = {level: problem for level, value in change.levels.items() if (problem := _misfit(rule, value)) is not None}
    if wrong:
        yield from (((level,), problem) for level, problem in wrong.items())
        return
    disorder = _disorder(rule.compares, change.levels)
    if disorder is not None:
        yield (disorder[0],), disorder[1]
        return
    disorder = _disorder(rule.compares, rule.thresholds(change).levels)
    if disorder is not None:
        field = disorder[0] if disorder[0] in change.levels else next(iter(change.levels), disorder[0])
        yield (field,), f"{disorder[1]} (what is left out keeps its default)"


def _misfit(rule: Rule, threshold: Threshold | None) -> str | None:
    """Say why `rule` cannot have this threshold; None where it can."""
    if threshold is None:
        return None
    if rule.compares == "present":
        return f"{rule.id} has no threshold; it can only be enabled or not"
    if rule.compares == "outside":
        if not isinstance(threshold, tuple):
            return f"{rule.id} takes a range [low, high]"
        if not threshold[0] < threshold[1]:
            return f"low must be smaller than high, got [{threshold[0]:g}, {threshold[1]:g}]"
        return None
    if isinstance(threshold, tuple):
        return f"{rule.id} takes one number, not a range"
    if rule.largest is not None and threshold > rule.largest:
        return f"{rule.id} takes a share between 0 and {rule.largest:g}, got {threshold:g}"
    return None


def _disorder(compares: Compares, thresholds: Mapping[Severity, Threshold | None]) -> tuple[Severity, str] | None:
    """Return the severe level that would fire before a milder one, with a message; None when the order is right."""
    levels = [(level, value) for level in LEVELS if (value := thresholds.get(level)) is not None]
    for (mild, lower), (severe, upper) in pairwise(levels):
        if not _is_milder(compares, lower, upper):
            return severe, (
                f"{severe} must not fire before {mild}: {severe} is {_written(upper)}, {mild} is {_written(lower)}"
            )
    return None


def _is_milder(compares: Compares, mild: Threshold, severe: Threshold) -> bool:
    if isinstance(mild, tuple) and isinstance(severe, tuple):
        return severe[0] <= mild[0] and mild[1] <= severe[1]
    if isinstance(mild, tuple) or isinstance(severe, tuple):
        return False
    return severe <= mild if compares == "below" else mild <= severe


def _written(threshold: Threshold) -> str:
    return f"[{threshold[0]:g}, {threshold[1]:g}]" if isinstance(threshold, tuple) else f"{threshold:g}"
