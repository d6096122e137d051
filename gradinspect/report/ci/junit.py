"""A report as JUnit XML, the form in which CI systems show checks: one test case a rule."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring  # only written here, never parsed

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.request.policy import LEVELS, FailOn, Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.ci.outcomes import Outcome, outcomes

# What XML 1.0 cannot hold, not even escaped; names of layers are strangers' text.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(
    report: Report,
    *,
    policy: Policy | None = None,
    settings: InspectionSettings | None = None,
    fail_on: FailOn = "warn",
) -> str:
    """Write a report as JUnit XML.

    A finding at least as severe as `fail_on` is a failure; a milder one passes and says so in `system-out`. A rule
    that was not applied is skipped, but one that leaves the verdict undetermined is an error.

    Args:
        report: the report.
        policy: what it was judged by, for rules that it switches off.
        settings: what was asked for.
        fail_on: the mildest severity that fails.

    Source: the XSD of Jenkins' xUnit plugin, junit-10.xsd; GitLab and GitHub's reporters read the same.
    """
    cases = [_case(outcome, report, fail_on) for outcome in outcomes(report, policy=policy, settings=settings)]
    suite = Element("testsuite", {"name": _clean(f"gradinspect: {_model(report)}"), **_counts(cases)})
    suite.set("skipped", _count(cases, "skipped"))
    suite.set("time", f"{report.environment.wall_seconds or 0.0:.3f}")
    properties = SubElement(suite, "properties")
    for name, value in _properties(report).items():
        SubElement(properties, "property", {"name": name, "value": _clean(value)})
    suite.extend(cases)
    suites = Element("testsuites", {"name": "gradinspect", **_counts(cases)})
    suites.append(suite)
    indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(suites, encoding="unicode")}\n'


def _case(outcome: Outcome, report: Report, fail_on: FailOn) -> Element:
    case = Element("testcase", {"name": outcome.rule.id, "classname": _clean(f"gradinspect.{_model(report)}")})
    if outcome.finding is not None:
        finding = outcome.finding
        if LEVELS.index(finding.severity) >= LEVELS.index(fail_on):
            entry = SubElement(case, "failure", {"type": finding.severity, "message": _clean(finding.message)})
        else:
            entry = SubElement(case, "system-out")
        entry.text = _clean(_account(finding))
    elif outcome.not_applied is not None:
        attributes = {"type": "undetermined" if outcome.leaves_open else "not_applied"}
        attributes["message"] = _clean(outcome.not_applied)
        SubElement(case, "error" if outcome.leaves_open else "skipped", attributes)
    return case


def _account(finding: Finding) -> str:
    lines = [f"{finding.severity}: {finding.message}", finding.explanation]
    if finding.layers:
        lines.append(f"layers: {', '.join(finding.layers[:32])}")
    if finding.remedy is not None:
        lines.append(f"what to change: {finding.remedy.action}")
        if finding.remedy.code is not None:
            lines.append(finding.remedy.code)
    return "\n".join(lines)


def _counts(cases: list[Element]) -> dict[str, str]:
    return {"tests": str(len(cases)), "failures": _count(cases, "failure"), "errors": _count(cases, "error")}


def _count(cases: list[Element], tag: str) -> str:
    return str(sum(1 for case in cases if case.find(tag) is not None))


def _properties(report: Report) -> dict[str, str]:
    environment = report.environment
    found = {
        "verdict": report.verdict,
        "inspection": report.inspection,
        "policy": f"{report.policy.name} {report.policy.version}" if report.policy is not None else None,
        "gradinspect": environment.gradinspect_version,
        "torch": environment.torch_version,
        "device": environment.device,
        "seed": str(environment.seed),
    }
    return {name: value for name, value in found.items() if value is not None}


def _model(report: Report) -> str:
    return report.model.name or report.model.id or report.model.kind


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
