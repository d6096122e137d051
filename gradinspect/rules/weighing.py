"""What a learning trial makes of the findings that rules infer: whether each stays, is milder, or is outvoted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gradinspect.contracts.report.outcomes import RuleOutcome
from gradinspect.contracts.report.report import Finding
from gradinspect.contracts.report.trial import Trial
from gradinspect.rules.rule import Rule

Shown = Literal["nothing", "learns", "partly", "fails"]

Judged = tuple[Finding | None, RuleOutcome]


def what_is_shown(trial: Trial | None) -> Shown:
    """Read a trial as far as it decides about other rules."""
    if trial is None or "undetermined" in (trial.status, trial.verdict):
        return "nothing"
    if trial.verdict in ("learns", "other_rate"):
        return "learns"
    return "partly" if trial.verdict in ("other_optimizer", "slow") else "fails"


def weigh(rules: Sequence[Rule], results: Sequence[Judged], trial: Trial | None) -> list[Judged]:
    """Weigh each rule's finding by what training showed; `rules` and `results` are in the same order.

    Without a section on the trial, as in a watched training step or an older report, severities stay as inferred.
    """
    shown = what_is_shown(trial)
    if trial is None or shown == "fails":
        return list(results)
    return [_weighed(rule, result, trial, shown) for rule, result in zip(rules, results, strict=True)]


def _weighed(rule: Rule, result: Judged, trial: Trial, shown: Shown) -> Judged:
    finding, outcome = result
    if finding is None or finding.severity == "info" or rule.if_it_learns == "kept":
        return result
    if shown == "learns" and _is_outvoted(rule, finding, trial):
        reason = "the model learns in spite of it" if trial.verdict == "learns" else "at another rate the model learns"
        changes = {"outcome": "outvoted", "severity": "info", "inferred_severity": finding.severity, "reason": reason}
        return finding.model_copy(update={"severity": "info"}), outcome.model_copy(update=changes)
    if finding.severity != "fail" or rule.if_it_learns == "outvoted_if_all_move":
        return result
    milder = {"severity": "warn", "inferred_severity": "fail"}
    return finding.model_copy(update={"severity": "warn"}), outcome.model_copy(update=milder)


def _is_outvoted(rule: Rule, finding: Finding, trial: Trial) -> bool:
    if rule.if_it_learns == "outvoted":
        return True
    if rule.if_it_learns == "outvoted_as_declared":
        return trial.verdict == "learns"
    if rule.if_it_learns == "outvoted_if_all_move":
        moves = any(check.name == "weights_moved" and check.passed for check in trial.checks)
        return moves or finding.severity != "fail"
    return False
