"""From a judged report to what an audit ends with."""

from __future__ import annotations

from typing import Literal

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.policy import LEVELS, FailOn

AuditResult = Literal["pass", "findings", "could_not_tell"]


def audit_result(report: Report, *, fail_on: FailOn = "warn") -> AuditResult:
    """Return what an audit says of a judged report.

    Args:
        report: judged. One of release 0.1.0 does not record which rules were judged, so its verdict alone counts.
        fail_on: the mildest severity that counts.

    Returns:
        `findings` when a finding is at least so severe. Without one, `could_not_tell` when the backward signal could
        not be judged although the policy asks for it: a milder finding elsewhere makes such a network no healthier.
    """
    if any(LEVELS.index(finding.severity) >= LEVELS.index(fail_on) for finding in report.findings):
        return "findings"
    is_open = any(outcome.is_required and outcome.outcome == "not_judged" for outcome in report.rules)
    return "could_not_tell" if is_open or report.verdict == "undetermined" else "pass"
