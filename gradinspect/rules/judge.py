"""From measurements and a policy to a judged report. Pure: a stored report can be judged again at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradinspect.contracts.optimizers import Optimizer
from gradinspect.contracts.report.outcomes import OutcomeKind, RuleOutcome
from gradinspect.contracts.report.report import (
    SCHEMA_VERSION,
    Finding,
    MeasuredSummary,
    Measurements,
    ModelReference,
    PolicyReference,
    Report,
    Summary,
    Verdict,
)
from gradinspect.contracts.request.policy import LEVELS, Policy, RulePolicy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.rules.catalogue import RULES
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import NotJudged, Rule, apply

MOST_NAMES = 16  # what `summary.worst` holds


@dataclass(frozen=True)
class Assessment:
    """What the rules say.

    Attributes:
        verdict: the severest finding decides; `undetermined` when nothing fails and the signal could not be judged.
        findings: severest first, then in the catalogue's order.
        outcomes: every rule, in the catalogue's order.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    outcomes: tuple[RuleOutcome, ...]

    def _with(self, kind: OutcomeKind) -> tuple[RuleOutcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.outcome == kind)

    @property
    def passed(self) -> tuple[str, ...]:
        """Ids of the rules that were applied and found nothing."""
        return tuple(outcome.rule for outcome in self._with("passed"))

    @property
    def not_judged(self) -> dict[str, str]:
        """Map the id of each rule that could not be applied to the reason."""
        return {outcome.rule: outcome.reason or "" for outcome in self._with("not_judged")}

    @property
    def switched_off(self) -> tuple[str, ...]:
        """Ids of the rules that the policy disables."""
        return tuple(outcome.rule for outcome in self._with("switched_off"))


def assess(measured: Measurements, *, policy: Policy, settings: InspectionSettings | None = None) -> Assessment:
    """Apply every enabled rule.

    Args:
        measured: measurements, or a stored report.
        policy: which rules, at which thresholds.
        settings: what was declared about training; left out, what a report says about it.
    """
    evidence = Evidence.of(measured, settings)
    findings: list[Finding] = []
    outcomes: list[RuleOutcome] = []
    for rule in RULES:
        finding, outcome = _apply(rule, evidence, policy.rules.get(rule.id))
        outcomes.append(outcome)
        if finding is not None:
            findings.append(finding)
    findings.sort(key=lambda finding: -LEVELS.index(finding.severity))
    return Assessment(_verdict(outcomes), tuple(findings), tuple(outcomes))


def _apply(rule: Rule, evidence: Evidence, said: RulePolicy | None) -> tuple[Finding | None, RuleOutcome]:
    limits = rule.limits(said)
    if said is not None and not said.enabled:
        return None, rule.outcome("switched_off", limits)
    result = apply(rule, evidence, limits)
    if isinstance(result, NotJudged):
        return None, rule.outcome("not_judged", limits, reason=result.reason)
    if result is None:
        return None, rule.outcome("passed", limits)
    return result, rule.outcome("finding", limits, severity=result.severity)


def judge(
    measurements: Measurements,
    *,
    policy: Policy,
    model: ModelReference,
    inspection: str | None,
    settings: InspectionSettings,
) -> Report:
    """Judge fresh measurements.

    Args:
        measurements: what the engine handed over.
        policy: which rules, at which thresholds.
        model: which model was measured.
        inspection: the inspection's id, None for a local one.
        settings: what was asked for; rules read the declared optimizer.
    """
    assessment = assess(measurements, policy=policy, settings=settings)
    return _report(measurements, assessment, policy, model, inspection, settings.optimizer)


def rejudge(report: Report, policy: Policy, *, settings: InspectionSettings | None = None) -> Report:
    """Judge a stored report under another policy. Nothing is computed again.

    Args:
        report: as stored.
        policy: which rules, at which thresholds.
        settings: what was asked for then; left out, the optimizer is the one that the report declares.
    """
    optimizer = settings.optimizer if settings is not None else report.optimizer
    assessment = assess(report, policy=policy, settings=settings)
    return _report(report, assessment, policy, report.model, report.inspection, optimizer)


def _report(
    measured: Measurements,
    assessment: Assessment,
    policy: Policy,
    model: ModelReference,
    inspection: str | None,
    optimizer: Optimizer | None,
) -> Report:
    numbers = {name: getattr(measured.summary, name) for name in MeasuredSummary.model_fields}
    scales = measured.lr_scales.verdict if measured.lr_scales is not None else None
    summary = Summary(**numbers, verdict=assessment.verdict, worst=worst_names(assessment.findings), lr_scales=scales)
    fields: dict[str, Any] = {  # Any: the report's own fields, each of its own type
        name: value for name in Measurements.model_fields if (value := getattr(measured, name)) is not None
    }
    fields |= {
        "inspection": inspection, "model": model, "summary": summary, "verdict": assessment.verdict,
        "schema_version": SCHEMA_VERSION, "findings": assessment.findings, "rules": assessment.outcomes,
        "policy": PolicyReference(name=policy.name, version=policy.version),
    }  # fmt: skip
    if optimizer is not None:
        fields["optimizer"] = optimizer
    # Every part has been validated already; checking 50,000 rows again would only take time.
    return Report.model_construct(**fields)


def worst_names(findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """The layers and parameters behind the severest findings that a verdict counts."""
    for severity in ("fail", "warn"):
        chosen = [finding for finding in findings if finding.severity == severity]
        if chosen:
            named = [name for finding in chosen for name in (finding.layers or finding.parameters)]
            return tuple(dict.fromkeys(named))[:MOST_NAMES]
    return ()


def _verdict(outcomes: Sequence[RuleOutcome]) -> Verdict:
    severities = {outcome.severity for outcome in outcomes if outcome.outcome == "finding"}
    if "fail" in severities:
        return "fail"
    if "warn" in severities:
        return "warn"
    is_open = any(outcome.outcome == "not_judged" and outcome.is_required for outcome in outcomes)
    is_judged = any(outcome.outcome in ("finding", "passed") for outcome in outcomes)
    return "undetermined" if is_open or not is_judged else "pass"
