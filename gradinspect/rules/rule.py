"""A rule: words, thresholds with their sources, and one pure check."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gradinspect.contracts.report.operations import Operation
from gradinspect.contracts.report.outcomes import OutcomeKind, RuleOutcome
from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.request.policy import LEVELS, Compares, RulePolicy, Severity, Threshold
from gradinspect.rules.evidence import Evidence

MOST_NAMES = 1024  # in a finding
LARGEST = sys.float_info.max  # numbers of a report are finite, but a quotient of finite numbers may overflow


@dataclass(frozen=True, slots=True)
class Level:
    """One default threshold with the source of its number, or "chosen" with the reason."""

    value: Threshold
    source: str


@dataclass(frozen=True, slots=True)
class NotJudged:
    """The result of a rule that could not be applied: which measurement is missing."""

    reason: str


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of one rule under one policy."""

    compares: Compares
    levels: dict[Severity, Threshold]

    def severity(self, value: float) -> Severity | None:
        """Return the severest level that `value` reaches, or None."""
        crossed = [level for level, threshold in self.levels.items() if _crosses(self.compares, value, threshold)]
        return max(crossed, key=LEVELS.index) if crossed else None

    def crossed(self, severity: Severity, value: float) -> float:
        """Return the number that `value` crossed at `severity`: for a range, the bound on its side."""
        threshold = self.levels[severity]
        if isinstance(threshold, tuple):
            return threshold[0] if value < threshold[0] else threshold[1]
        return threshold


Check = Callable[[Evidence, Thresholds], Finding | NotJudged | None]

# What a finding becomes where a trial shows that the model learns, and what a `fail` becomes where nothing is shown.
#   outvoted: information; a `warn`. For what is inferred about training, which training itself contradicts.
#   outvoted_as_declared: as outvoted, but only if it learns at the declared rate. For rules about that rate.
#   outvoted_if_all_move: as outvoted, but a `fail` stays unless every layer moved.
#   warn: at most a `warn`. For harm that a trial on one batch cannot show.
#   kept: itself. For the structure of the model, and for what a trial itself found.
IfItLearns = Literal["outvoted", "outvoted_as_declared", "outvoted_if_all_move", "warn", "kept"]
IF_IT_LEARNS: Mapping[IfItLearns, str] = {
    "outvoted": "Where a trial sees the model learn, the finding is information.",
    "outvoted_as_declared": "Where a trial sees the model learn at the declared rate, the finding is information.",
    "outvoted_if_all_move": "Where a trial sees the model learn and every layer move, the finding is information.",
    "warn": "Where a trial sees the model learn, the finding is at most a warning.",
    "kept": "A trial does not change it.",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the catalogue.

    Attributes:
        id: the rule's name in findings and policies.
        title: the finding as a short headline.
        what: what is measured, in one sentence.
        why: why it matters, for a newcomer, in one or two sentences.
        unit: the unit of value and thresholds.
        compares: how the value is compared with a threshold.
        reference: where the idea comes from.
        check: from evidence and thresholds to a finding, None (passed) or NotJudged.
        info, warn, fail: default thresholds.
        largest: the largest threshold that makes sense: 1 for shares.
        always: the severity of a rule without thresholds.
        is_required: whether a network cannot pass while this rule cannot be judged.
        if_it_learns: what a trial makes of the finding.
    """

    id: str
    title: str
    what: str
    why: str
    unit: str
    compares: Compares
    reference: str
    check: Check
    info: Level | None = None
    warn: Level | None = None
    fail: Level | None = None
    largest: float | None = None
    always: Severity | None = None
    is_required: bool = False
    if_it_learns: IfItLearns = "outvoted"

    def default(self, level: Severity) -> Level | None:
        """Return the default threshold of a level."""
        result: Level | None = getattr(self, level)
        return result

    def finding(
        self,
        *,
        severity: Severity,
        value: float,
        message: str,
        layers: Iterable[str] = (),
        parameters: Iterable[str] = (),
        threshold: float = 0.0,
        explanation: str | None = None,
        remedy: Remedy | None = None,
        operation: Operation | None = None,
    ) -> Finding:
        """Make a finding of this rule; `explanation` defaults to why the rule matters."""
        return Finding(
            rule=self.id,
            severity=severity,
            layers=_distinct(layers),
            parameters=_distinct(parameters),
            value=max(-LARGEST, min(value, LARGEST)),
            threshold=threshold,
            message=message,
            explanation=explanation or self.why,
            remedy=remedy if remedy is None or _is_finite(remedy.arguments) else None,
            operation=operation,
        )

    def outcome(
        self,
        kind: OutcomeKind,
        thresholds: Thresholds,
        *,
        severity: Severity | None = None,
        reason: str | None = None,
    ) -> RuleOutcome:
        """Record this rule's words, the thresholds used and the outcome."""
        levels: dict[Severity, Threshold] = {self.always: 0.0} if self.always is not None else thresholds.levels
        default = self.default(severity) if severity is not None else None
        is_default = default is not None and severity is not None and default.value == levels.get(severity)
        return RuleOutcome(
            rule=self.id,
            title=self.title,
            what=self.what,
            why=self.why,
            unit=self.unit,
            source=self.reference,
            outcome=kind,
            is_required=self.is_required,
            severity=severity,
            compares=self.compares,
            thresholds=levels,
            threshold_source=default.source if default is not None and is_default else None,
            reason=reason,
        )

    def thresholds(self, change: RulePolicy | None) -> Thresholds:
        """Return the thresholds under a policy's change to this rule (None: no change)."""
        levels: dict[Severity, Threshold] = {}
        for level in LEVELS:
            default = self.default(level)
            value = default.value if default is not None else None
            if change is not None and level in change.model_fields_set:
                value = getattr(change, level)
            if value is not None:
                levels[level] = value
        return Thresholds(self.compares, levels)


def apply(rule: Rule, evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Apply the rule; "not judged" where arithmetic fails on extreme numbers, which a hostile model can produce."""
    try:
        return rule.check(evidence, thresholds)
    except (ArithmeticError, ValueError) as error:
        return NotJudged(f"the measurements are outside what can be computed with ({error.__class__.__name__})")


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))[:MOST_NAMES]


def _is_finite(value: object) -> bool:
    """Check that all numbers in a remedy's arguments are finite; extreme measurements can overflow them."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(_is_finite(item) for item in value.values())
    return all(_is_finite(item) for item in value) if isinstance(value, list | tuple) else True


def _crosses(compares: Compares, value: float, threshold: Threshold) -> bool:
    if isinstance(threshold, tuple):
        return not threshold[0] <= value <= threshold[1]
    if compares == "below":
        return value < threshold
    if compares == "reaches":
        return value >= threshold
    return value > threshold
