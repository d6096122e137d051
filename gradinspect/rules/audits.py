"""From a judged report to what an audit ends with."""

from __future__ import annotations

from typing import Literal

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.policy import DEFAULT_POLICY, LEVELS, Policy
from gradinspect.rules.judge import SIGNAL_RULES, assess

FailOn = Literal["warn", "fail"]
AuditResult = Literal["pass", "findings", "could_not_tell"]


def audit_result(report: Report, *, fail_on: FailOn = "warn", policy: Policy | None = None) -> AuditResult:
    """What an audit says of a report.

    Args:
        report: judged.
        fail_on: the mildest severity that counts.
        policy: what it was judged by, for the rules that it switches off; left out, the default, or for a report that
            was judged by another, its verdict alone.

    Returns:
        `findings` when a finding is at least so severe. Without one, `could_not_tell` when the backward signal could
        not be judged although the policy asks for it: a milder finding elsewhere makes such a network no healthier.
    """
    if any(LEVELS.index(finding.severity) >= LEVELS.index(fail_on) for finding in report.findings):
        return "findings"
    if report.verdict == "undetermined":
        return "could_not_tell"
    if policy is None and report.policy is not None and report.policy.name != DEFAULT_POLICY.name:
        return "pass"
    open_rules = assess(report, policy=policy or DEFAULT_POLICY).not_judged.keys() & SIGNAL_RULES
    return "could_not_tell" if open_rules else "pass"
