"""What a report recorded about its rules, in words. Nothing is judged here."""

from __future__ import annotations

from gradinspect.contracts.report.outcomes import RuleOutcome
from gradinspect.contracts.report.report import Finding, Report
from gradinspect.report.words.sections import Fact
from gradinspect.wording import bound_in_words

_SIGNAL_RULES = ("vanishing_signal", "exploding_signal")  # the rules whose thresholds the signal's chart shows


def rule_title(finding: Finding, outcome: RuleOutcome | None) -> str:
    """Return the rule's title; its id in a report of release 0.1.0, which recorded no titles."""
    return outcome.title if outcome is not None else finding.rule.replace("_", " ").capitalize()


def rule_titles(report: Report) -> dict[str, str]:
    """Map each finding's rule to its title."""
    outcomes = {outcome.rule: outcome for outcome in report.rules}
    return {finding.rule: rule_title(finding, outcomes.get(finding.rule)) for finding in report.findings}


def bound_crossed(outcome: RuleOutcome) -> str | None:
    """Return the threshold that a finding crossed: `fail below 0.001`; None for rules without thresholds.

    Of a finding that the trial made milder, it is the threshold of the severity that the rule inferred.
    """
    severity = outcome.inferred_severity or outcome.severity
    threshold = outcome.thresholds.get(severity) if severity is not None else None
    if threshold is None or outcome.compares == "present":
        return None
    return f"{severity} {bound_in_words(outcome.compares, threshold)}"


def was_applied(outcome: RuleOutcome) -> bool:
    """Return whether a rule passed or found anything, a finding that the trial outvoted included."""
    return outcome.outcome not in ("not_judged", "switched_off")


def not_applied(report: Report) -> tuple[Fact, ...]:
    """List the rules that neither passed nor found anything, each with the reason."""
    return tuple(
        Fact(outcome.rule, reason_not_applied(outcome)) for outcome in report.rules if not was_applied(outcome)
    )


def reason_not_applied(outcome: RuleOutcome) -> str:
    """Say why a rule neither passed nor found anything."""
    if outcome.outcome == "switched_off":
        return "the policy switches it off"
    return outcome.reason or "no reason was given"


def signal_thresholds(report: Report) -> list[tuple[float, str]]:
    """List the thresholds of the backward signal that the report was judged by, each with its severity."""
    return [
        (threshold, severity)
        for outcome in report.rules
        if outcome.rule in _SIGNAL_RULES and outcome.outcome != "switched_off"
        for severity, threshold in outcome.thresholds.items()
        if isinstance(threshold, float)
    ]


def leaves_verdict_open(outcome: RuleOutcome, report: Report) -> bool:
    """Return whether the report is undetermined because this rule was not judged."""
    return outcome.outcome == "not_judged" and outcome.is_required and report.verdict == "undetermined"
