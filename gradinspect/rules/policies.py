"""Policies by name or as documents, checked against the rules' own defaults."""

from __future__ import annotations

from typing import Any

from gradinspect.contracts.document import from_python, pointer
from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.request.policy import DEFAULT_POLICY, LEVELS, Policy, RulePolicy, disorder
from gradinspect.rules.catalogue import RULES


def find_policy(policy: str | dict[str, Any] | Policy) -> Policy:  # Any: JSON until it is validated
    """Make a policy of what a caller gives: a built-in name, a document, or a policy.

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
    """Check the order of thresholds where a policy gives one level and leaves another at its default.

    Raises:
        ProblemError: `invalid_request`, naming rule and field.
    """
    errors = []
    for rule in RULES:
        said = policy.rules.get(rule.id)
        if said is None:
            continue
        problem = disorder(rule.id, rule.limits(said).levels)
        if problem is not None:
            field = problem[0] if problem[0] in said.model_fields_set else next(iter(_given(said)), problem[0])
            errors.append(
                FieldError(pointer(("rules", rule.id, field)), f"{problem[1]} (what is left out keeps its default)")
            )
    if errors:
        raise ProblemError("invalid_request", f"{errors[0].pointer}: {errors[0].detail}", errors=errors)
    return policy


def complete(policy: Policy) -> Policy:
    """Write out every rule with the thresholds that hold under `policy`: the form to export and to show."""
    rules: dict[str, RulePolicy] = {}
    for rule in RULES:
        said = policy.rules.get(rule.id)
        levels = rule.limits(said).levels
        # A level that the policy switches off is written as null; one that the rule never had is left out.
        shown: dict[str, Any] = {  # Any: a number, a range or null
            level: levels.get(level) for level in LEVELS if rule.default(level) or level in levels
        }
        rules[rule.id] = RulePolicy(enabled=said.enabled if said is not None else True, **shown)
    return policy.model_copy(update={"rules": rules})


def policy_file(policy: Policy) -> str:
    """Write a policy as a file that `--policy` and the service read again: JSON, every rule with its thresholds."""
    return complete(policy).model_dump_json(exclude_unset=True, indent=2) + "\n"


def _given(said: RulePolicy) -> list[str]:
    return [level for level in LEVELS if level in said.model_fields_set]
