"""Judging measurements by a policy. Pure: a stored report can be judged again at any time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gradinspect.contracts.optimizers import Optimizer
from gradinspect.contracts.report.outcomes import RuleOutcome
from gradinspect.contracts.report.report import (
    SCHEMA_VERSION,
    Finding,
    MeasuredBy,
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
from gradinspect.rules.weighing import weigh, what_is_shown

MOST_NAMES = 16  # in `summary.worst`


class _About(NamedTuple):
    """What a report says of its origin; the names are the report's."""

    model: ModelReference
    inspection: str | None
    measured_by: MeasuredBy


def judge(
    measurements: Measurements,
    *,
    policy: Policy,
    model: ModelReference,
    inspection: str | None,
    settings: InspectionSettings,
    measured_by: MeasuredBy | None = None,
) -> Report:
    """Judge fresh measurements.

    Args:
        measurements: what the engine measured.
        policy: the rules and thresholds to apply.
        model: the model measured.
        inspection: the inspection's id, None for a local one.
        settings: what was requested; rules read the declared optimizer.
        measured_by: left out: the client for a local inspection, the service for one that has an id.

    Returns:
        The report: severest findings first, and the outcome of every rule in the catalogue's order. The severest
        finding decides the verdict, weighed by the learning trial unless the policy says `inferred`. It is
        `undetermined` when nothing counts, the signal could not be judged and no trial showed that the model learns.
    """
    if measured_by is None:
        measured_by = "client" if inspection is None else "service"
    return _judged(measurements, policy, _About(model, inspection, measured_by), settings.optimizer)


def rejudge(report: Report, policy: Policy, *, settings: InspectionSettings | None = None) -> Report:
    """Judge a stored report under another policy. Nothing is measured again.

    Args:
        report: as stored.
        policy: which rules, at which thresholds.
        settings: what was requested then; left out, the optimizer is the one that the report declares.
    """
    optimizer = settings.optimizer if settings is not None else report.optimizer
    return _judged(report, policy, _About(report.model, report.inspection, report.measured_by), optimizer)


def worst_names(findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """Return the layers and parameters of the severest findings that count for a verdict."""
    for severity in ("fail", "warn"):
        chosen = [finding for finding in findings if finding.severity == severity]
        if chosen:
            named = [name for finding in chosen for name in (finding.layers or finding.parameters)]
            return tuple(dict.fromkeys(named))[:MOST_NAMES]
    return ()


def _judged(
    measured: Measurements,
    policy: Policy,
    about: _About,
    optimizer: Optimizer | None,
) -> Report:
    evidence = Evidence.of(measured, optimizer)
    results = [_apply(rule, evidence, policy.rules.get(rule.id)) for rule in RULES]
    if policy.verdicts == "tried":
        results = weigh(RULES, results, measured.trial)
    outcomes = tuple(outcome for _, outcome in results)
    findings = [finding for finding, _ in results if finding is not None]
    findings.sort(key=lambda finding: -LEVELS.index(finding.severity))
    verdict = _verdict(outcomes, learns=what_is_shown(measured.trial) == "learns")
    numbers = {name: getattr(measured.summary, name) for name in MeasuredSummary.model_fields}
    scales = measured.lr_scales.verdict if measured.lr_scales is not None else None
    fields: dict[str, Any] = {  # Any: the report's fields, each of another type
        name: value for name in Measurements.model_fields if (value := getattr(measured, name)) is not None
    }
    fields |= {
        "schema_version": SCHEMA_VERSION,
        **about._asdict(),
        "summary": Summary(**numbers, verdict=verdict, worst=worst_names(tuple(findings)), lr_scales=scales),
        "verdict": verdict,
        "policy": PolicyReference(name=policy.name, version=policy.version),
        "findings": tuple(findings),
        "rules": outcomes,
    }
    if optimizer is not None:
        fields["optimizer"] = optimizer
    # Every part is validated already; checking 50,000 rows again would only take time.
    return Report.model_construct(**fields)


def _apply(rule: Rule, evidence: Evidence, change: RulePolicy | None) -> tuple[Finding | None, RuleOutcome]:
    thresholds = rule.thresholds(change)
    if change is not None and not change.enabled:
        return None, rule.outcome("switched_off", thresholds)
    result = apply(rule, evidence, thresholds)
    if isinstance(result, NotJudged):
        return None, rule.outcome("not_judged", thresholds, reason=result.reason)
    if result is None:
        return None, rule.outcome("passed", thresholds)
    return result, rule.outcome("finding", thresholds, severity=result.severity)


def _verdict(outcomes: Sequence[RuleOutcome], *, learns: bool) -> Verdict:
    severities = {outcome.severity for outcome in outcomes if outcome.outcome == "finding"}
    if "fail" in severities:
        return "fail"
    if "warn" in severities:
        return "warn"
    if learns:
        return "pass"
    is_open = any(outcome.outcome == "not_judged" and outcome.is_required for outcome in outcomes)
    is_judged = any(outcome.outcome in ("finding", "passed") for outcome in outcomes)
    return "undetermined" if is_open or not is_judged else "pass"
