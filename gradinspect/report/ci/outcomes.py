"""Every rule of a report with what became of it, for outputs that list checks one by one."""

from __future__ import annotations

from dataclasses import dataclass

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.request.policy import DEFAULT_POLICY, Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.rules import RULES, Rule, assess


@dataclass(frozen=True)
class Outcome:
    """One rule. With neither `finding` nor `not_applied` it passed.

    Attributes:
        finding: what it found.
        not_applied: why it was not applied.
        leaves_open: whether the verdict is `undetermined` because of it.
    """

    rule: Rule
    finding: Finding | None = None
    not_applied: str | None = None
    leaves_open: bool = False


def outcomes(
    report: Report, *, policy: Policy | None = None, settings: InspectionSettings | None = None
) -> tuple[Outcome, ...]:
    """List every rule of the catalogue.

    Args:
        report: the findings are its own.
        policy: what it was judged by, for the rules that it switches off; left out, the default.
        settings: what was asked for, for rules that look at it; left out, what the report says.
    """
    assessment = assess(report, policy=policy or DEFAULT_POLICY, settings=settings)
    found = {finding.rule: finding for finding in reversed(report.findings)}
    return tuple(_outcome(rule, found.get(rule.id), assessment.not_judged, assessment.switched_off, report)
                 for rule in RULES)  # fmt: skip


def _outcome(
    rule: Rule, finding: Finding | None, not_judged: dict[str, str], switched_off: tuple[str, ...], report: Report
) -> Outcome:
    if finding is not None:
        return Outcome(rule, finding=finding)
    if rule.id in switched_off:
        return Outcome(rule, not_applied="the policy switches it off")
    if rule.id in not_judged:
        leaves_open = report.verdict == "undetermined" and rule.is_required
        return Outcome(rule, not_applied=not_judged[rule.id], leaves_open=leaves_open)
    return Outcome(rule)
