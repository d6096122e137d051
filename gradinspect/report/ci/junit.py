"""A report as JUnit XML, which CI systems show as checks: one test case per rule."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring  # only written here, never parsed

from gradinspect.contracts.report.outcomes import RuleOutcome
from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.request.policy import LEVELS, FailOn
from gradinspect.report.output_format import OutputFormat
from gradinspect.report.words.rule_words import leaves_verdict_open, reason_not_applied
from gradinspect.report.words.sections import model_name

# XML 1.0 cannot hold these, not even escaped; a model may name a layer with them.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(report: Report, *, fail_on: FailOn = "warn") -> str:
    """Write a report as JUnit XML.

    A finding at least as severe as `fail_on` is a failure; a milder one passes and is printed in `system-out`. A rule
    that was not judged is skipped, but one that leaves the verdict undetermined is an error. A report of release 0.1.0
    recorded findings only: the rules that found nothing have no test case.

    Args:
        report: the report.
        fail_on: the mildest severity that fails.

    Source: the XSD of Jenkins' xUnit plugin, junit-10.xsd; GitLab and GitHub's reporters read the same.
    """
    cases = _cases(report, fail_on)
    suite = Element("testsuite", {"name": _clean(f"gradinspect: {model_name(report)}"), **_counts(cases)})
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


JUNIT = OutputFormat(
    name="junit",
    title="JUnit XML",
    media_type="application/xml",
    suffix="xml",
    description="Write JUnit XML, one test case per rule.",
    render=lambda report, circumstances: render_junit(report, fail_on=circumstances.fail_on),
)


def _cases(report: Report, fail_on: FailOn) -> list[Element]:
    findings = {finding.rule: finding for finding in reversed(report.findings)}
    outcomes = {outcome.rule: outcome for outcome in report.rules}
    class_name = _clean(f"gradinspect.{model_name(report)}")
    cases = []
    for rule in dict.fromkeys([*outcomes, *findings]):
        case = Element("testcase", {"name": rule, "classname": class_name})
        if rule in findings:
            _add_finding(case, findings[rule], fail_on)
        elif outcomes[rule].outcome != "passed":
            _add_reason(case, outcomes[rule], report)
        cases.append(case)
    return cases


def _add_finding(case: Element, finding: Finding, fail_on: FailOn) -> None:
    if LEVELS.index(finding.severity) >= LEVELS.index(fail_on):
        entry = SubElement(case, "failure", {"type": finding.severity, "message": _clean(finding.message)})
    else:
        entry = SubElement(case, "system-out")
    entry.text = _clean(_account(finding))


def _add_reason(case: Element, outcome: RuleOutcome, report: Report) -> None:
    is_open = leaves_verdict_open(outcome, report)
    kind = "undetermined" if is_open else "not_applied"
    message = _clean(reason_not_applied(outcome))
    SubElement(case, "error" if is_open else "skipped", {"type": kind, "message": message})


def _account(finding: Finding) -> str:
    lines = [f"{finding.severity}: {finding.message}", finding.explanation]
    if finding.layers:
        lines.append(f"layers: {', '.join(finding.layers[:32])}")
    if finding.remedy is not None:
        lines.append(f"what to change: {finding.remedy.action}")
    return "\n".join(lines)


def _counts(cases: list[Element]) -> dict[str, str]:
    return {"tests": str(len(cases)), "failures": _count(cases, "failure"), "errors": _count(cases, "error")}


def _count(cases: list[Element], tag: str) -> str:
    return str(sum(1 for case in cases if case.find(tag) is not None))


def _properties(report: Report) -> dict[str, str]:
    environment = report.environment
    properties = {
        "verdict": report.verdict,
        "inspection": report.inspection,
        "policy": f"{report.policy.name} {report.policy.version}" if report.policy is not None else None,
        "gradinspect": environment.gradinspect_version,
        "torch": environment.torch_version,
        "device": environment.device,
        "seed": str(environment.seed),
    }
    return {name: value for name, value in properties.items() if value is not None}


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
