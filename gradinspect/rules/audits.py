"""The result of an audit of a judged report."""

from __future__ import annotations

from typing import Literal

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.policy import LEVELS, FailOn

AuditResult = Literal["pass", "findings", "could_not_tell"]


def audit_result(report: Report, *, fail_on: FailOn = "warn") -> AuditResult:
    """Return the result of an audit of a judged report.

    Args:
        report: judged. Reports of release 0.1.0 do not record which rules were judged; only their verdict counts.
        fail_on: the mildest severity that counts.

    Returns:
        `findings` when a finding is at least as severe as `fail_on`. Otherwise `could_not_tell` when the policy has a
        rule for the backward signal and the signal could not be judged, even if there are milder findings.
    """
    if any(LEVELS.index(finding.severity) >= LEVELS.index(fail_on) for finding in report.findings):
        return "findings"
    is_open = any(outcome.is_required and outcome.outcome == "not_judged" for outcome in report.rules)
    return "could_not_tell" if is_open or report.verdict == "undetermined" else "pass"
