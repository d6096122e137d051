"""What a rule is: words, thresholds with their sources, and one pure check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradinspect.contracts.policy import COMPARISONS, LEVELS, Compares, RulePolicy, Threshold
from gradinspect.contracts.report import Finding, Severity
from gradinspect.rules.evidence import Evidence


@dataclass(frozen=True, slots=True)
class Level:
    """One default threshold and where its number comes from ("chosen" says that we chose it, and why)."""

    value: Threshold
    source: str


@dataclass(frozen=True, slots=True)
class NotJudged:
    """A rule that could not be applied, and which measurement it lacked."""

    reason: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The thresholds of one rule under one policy."""

    compares: Compares
    levels: dict[Severity, Threshold]

    def severity(self, value: float) -> Severity | None:
        """The severest level that `value` reaches, or None."""
        crossed = [level for level, threshold in self.levels.items() if _crosses(self.compares, value, threshold)]
        return max(crossed, key=LEVELS.index) if crossed else None

    def threshold(self, severity: Severity, value: float) -> float:
        """The number that `value` crossed at `severity`: for a range, the bound on its side."""
        threshold = self.levels[severity]
        if isinstance(threshold, tuple):
            return threshold[0] if value < threshold[0] else threshold[1]
        return threshold

    def mildest(self) -> Threshold | None:
        """The threshold at which the rule first speaks."""
        return next((self.levels[level] for level in LEVELS if level in self.levels), None)


Check = Callable[[Evidence, Limits], Finding | NotJudged | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the catalogue.

    Attributes:
        id: the rule's name in findings and policies.
        title: the finding as a short headline.
        what: what is measured, in one sentence.
        why: why a newcomer should care, in one or two sentences.
        unit: the unit of value and thresholds.
        reference: where the idea comes from.
        check: from evidence and limits to a finding, None (passed) or NotJudged.
        info, warn, fail: default thresholds.
    """

    id: str
    title: str
    what: str
    why: str
    unit: str
    reference: str
    check: Check
    info: Level | None = None
    warn: Level | None = None
    fail: Level | None = None

    @property
    def compares(self) -> Compares:
        """How the value is compared with a threshold."""
        return COMPARISONS[self.id].compares

    def default(self, level: Severity) -> Level | None:
        """The default threshold of a level."""
        found: Level | None = getattr(self, level)
        return found

    def limits(self, said: RulePolicy | None) -> Limits:
        """The thresholds under what a policy says about this rule (None: nothing)."""
        levels: dict[Severity, Threshold] = {}
        for level in LEVELS:
            default = self.default(level)
            value = default.value if default is not None else None
            if said is not None and level in said.model_fields_set:
                value = getattr(said, level)
            if value is not None:
                levels[level] = value
        return Limits(self.compares, levels)


def _crosses(compares: Compares, value: float, threshold: Threshold) -> bool:
    if isinstance(threshold, tuple):
        return not threshold[0] <= value <= threshold[1]
    if compares == "below":
        return value < threshold
    if compares == "reaches":
        return value >= threshold
    return value > threshold
