"""From measurements and a policy to a judged report. Pure: a stored report can be judged again at any time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradinspect.contracts.report.report import (
    Finding,
    MeasuredSummary,
    Measurements,
    ModelReference,
    PolicyReference,
    Report,
    Summary,
    Verdict,
)
from gradinspect.contracts.request.policy import LEVELS, Policy
from gradinspect.contracts.request.request import Adam, InspectionSettings, Sgd
from gradinspect.rules.catalogue import RULES
from gradinspect.rules.evidence import Evidence, Measured
from gradinspect.rules.rule import NotJudged, apply

MOST_NAMES = 16  # what `summary.worst` holds
SIGNAL_RULES = frozenset({"vanishing_signal", "exploding_signal"})


@dataclass(frozen=True)
class Assessment:
    """What the rules say.

    Attributes:
        verdict: the severest finding decides; `undetermined` when nothing fails and the signal could not be judged.
        findings: severest first, then in the catalogue's order.
        passed: ids of the rules that were applied and found nothing.
        not_judged: id → why the rule could not be applied.
        switched_off: ids that the policy disables.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    passed: tuple[str, ...]
    not_judged: dict[str, str]
    switched_off: tuple[str, ...]


def assess(measured: Measured, *, policy: Policy, settings: InspectionSettings | None = None) -> Assessment:
    """Apply every enabled rule.

    Args:
        measured: measurements, or a stored report.
        policy: which rules, at which thresholds.
        settings: what was declared about training; left out, what a report says about it.
    """
    evidence = Evidence.of(measured, settings)
    findings: list[Finding] = []
    passed: list[str] = []
    not_judged: dict[str, str] = {}
    switched_off: list[str] = []
    for rule in RULES:
        said = policy.rules.get(rule.id)
        if said is not None and not said.enabled:
            switched_off.append(rule.id)
            continue
        outcome = apply(rule, evidence, rule.limits(said))
        if isinstance(outcome, NotJudged):
            not_judged[rule.id] = outcome.reason
        elif outcome is None:
            passed.append(rule.id)
        else:
            findings.append(outcome)
    findings.sort(key=lambda finding: -LEVELS.index(finding.severity))
    verdict = _verdict(findings, not_judged, judged=bool(passed or findings))
    return Assessment(verdict, tuple(findings), tuple(passed), not_judged, tuple(switched_off))


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
    measured: Measurements | Report,
    assessment: Assessment,
    policy: Policy,
    model: ModelReference,
    inspection: str | None,
    optimizer: Sgd | Adam | None,
) -> Report:
    numbers = {name: getattr(measured.summary, name) for name in MeasuredSummary.model_fields}
    scales = measured.lr_scales.verdict if measured.lr_scales is not None else None
    summary = Summary(**numbers, verdict=assessment.verdict, worst=worst_names(assessment.findings), lr_scales=scales)
    fields: dict[str, Any] = {  # Any: the report's own fields, each of its own type
        name: value for name in Measurements.model_fields if (value := getattr(measured, name)) is not None
    }
    fields |= {
        "inspection": inspection, "model": model, "summary": summary, "verdict": assessment.verdict,
        "findings": assessment.findings, "policy": PolicyReference(name=policy.name, version=policy.version),
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


def _verdict(findings: list[Finding], not_judged: dict[str, str], *, judged: bool) -> Verdict:
    severities = {finding.severity for finding in findings}
    if "fail" in severities:
        return "fail"
    if "warn" in severities:
        return "warn"
    # A network whose signal nobody could see has not passed, whatever else was fine.
    return "undetermined" if not judged or not_judged.keys() & SIGNAL_RULES else "pass"
