"""The value that each rule measured, even where it did not fire."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradinspect.contracts.report.report import Finding
from gradinspect.contracts.request.policy import Compares, Threshold
from gradinspect.rules.catalogue import RULES
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import LARGEST, NotJudged, Rule, Thresholds, apply


@dataclass(frozen=True, slots=True)
class RuleValue:
    """The value of a rule on one report.

    Attributes:
        value: None where the rule could not be judged or had nothing to count.
        not_judged: why it could not be applied; None where it could.
    """

    value: float | None
    not_judged: str | None = None


# Every value crosses these, so every rule returns a finding with its value. A range is crossed from above, so
# `update_ratio` returns its largest ratio, not its median.
_EVERYTHING: dict[Compares, Threshold] = {
    "above": -LARGEST, "reaches": -LARGEST, "below": LARGEST, "outside": (-LARGEST, -LARGEST), "present": 0.0,
}  # fmt: skip


def rule_values(evidence: Evidence) -> dict[str, RuleValue]:
    """Map rule → its value, in the catalogue's order."""
    return {rule.id: _value(rule, evidence) for rule in RULES}


def _value(rule: Rule, evidence: Evidence) -> RuleValue:
    outcome = apply(rule, evidence, Thresholds(rule.compares, {"info": _EVERYTHING[rule.compares]}))
    if isinstance(outcome, NotJudged):
        return RuleValue(None, outcome.reason)
    if isinstance(outcome, Finding):
        return RuleValue(outcome.value)
    return RuleValue(0.0 if rule.compares == "present" else None)


def badness(rule: Rule, value: float, middle: float | None = None) -> float:
    """Return how bad a value is on a log2 scale: one more is twice as bad, infinity is the worst possible.

    Args:
        rule: the rule whose value it is.
        value: what the rule measured.
        middle: for a rule with a range, its geometric middle; badness is the distance from it.
    """
    if rule.compares == "outside":
        if value <= 0 or not middle:
            return math.inf
        return abs(math.log2(value / middle))
    if value <= 0:
        return math.inf if rule.compares == "below" else -math.inf
    return -math.log2(value) if rule.compares == "below" else math.log2(value)
