"""A report as SARIF 2.1.0, the form in which code scanning takes findings: one result a finding.

A network's layers are logical locations. Code scanning also wants a file, so every result lies in the model's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.request.policy import LEVELS, Policy, Severity
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.ci.outcomes import Outcome, outcomes
from gradinspect.rules import RULES, Rule
from gradinspect.version import __version__

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
MOST_LOCATIONS = 100  # chosen: GitHub's code scanning takes a thousand and shows the first
_LEVELS: dict[Severity, str] = {"info": "note", "warn": "warning", "fail": "error"}
_PLACES = {rule.id: place for place, rule in enumerate(RULES)}

Json = dict[str, Any]  # Any: SARIF's own nesting


def render_sarif(
    report: Report,
    *,
    policy: Policy | None = None,
    settings: InspectionSettings | None = None,
    artifact: str = "model",
    lines: Mapping[str, int] | None = None,
) -> str:
    """Write a report as SARIF.

    Args:
        report: the report.
        policy: what it was judged by, for rules that it switches off.
        settings: what was asked for.
        artifact: the model's file as the repository knows it, with `/` between folders.
        lines: the line of each layer in that file, from 1; a finding without one is put on line 1.

    Source: OASIS, Static Analysis Results Interchange Format 2.1.0, sections 3.14 (run) to 3.49 (rules).
    """
    listed = outcomes(report, policy=policy, settings=settings)
    run: Json = {
        "tool": {"driver": _driver()},
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": _notifications(listed)}],
        "results": [_result(finding, report, artifact, lines or {}) for finding in report.findings],
        "columnKind": "unicodeCodePoints",
        "properties": {"verdict": report.verdict, **_stamp(report)},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _driver() -> Json:
    return {"name": "gradinspect", "version": __version__, "rules": [_rule(rule) for rule in RULES]}


def _rule(rule: Rule) -> Json:
    severest = rule.always or [level for level in LEVELS if rule.default(level) is not None][-1]
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in rule.id.split("_")),
        "shortDescription": {"text": f"{rule.title}."},
        "fullDescription": {"text": rule.what},
        "help": {"text": f"{rule.why}\n\nSource: {rule.reference}."},
        "defaultConfiguration": {"level": _LEVELS[severest]},
    }


def _notifications(listed: tuple[Outcome, ...]) -> list[Json]:
    """Rules that were not applied: what the run does not say anything about."""
    return [
        {
            "level": "warning" if outcome.leaves_open else "note",
            "associatedRule": {"id": outcome.rule.id, "index": _PLACES[outcome.rule.id]},
            "message": {"text": f"{outcome.rule.id} was not applied: {outcome.not_applied}"},
        }
        for outcome in listed
        if outcome.not_applied is not None
    ]


def _result(finding: Finding, report: Report, artifact: str, lines: Mapping[str, int]) -> Json:
    logical = [{"name": name, "kind": "module"} for name in finding.layers[:MOST_LOCATIONS]]
    logical += [{"name": name, "kind": "parameter"} for name in finding.parameters[: MOST_LOCATIONS - len(logical)]]
    region = {"startLine": _line(finding, lines)}
    location: Json = {"physicalLocation": {"artifactLocation": {"uri": quote(artifact)}, "region": region}}
    if logical:
        location["logicalLocations"] = logical
    result: Json = {
        "ruleId": finding.rule,
        "level": _LEVELS[finding.severity],
        "kind": "fail",
        "message": {"text": f"{finding.message} {finding.explanation}"},
        "locations": [location],
        "partialFingerprints": {"gradinspect/v1": _fingerprint(finding, report)},
        "properties": {"value": finding.value, "threshold": finding.threshold},
    }
    if finding.rule in _PLACES:
        result["ruleIndex"] = _PLACES[finding.rule]
    if finding.remedy is not None:
        result["properties"]["remedy"] = finding.remedy.model_dump(mode="json")
    return result


def _line(finding: Finding, lines: Mapping[str, int]) -> int:
    """Return the line of the first layer of a finding; GitHub's code scanning requires one, so 1 when none is known."""
    names = (*finding.layers, *(name.rpartition(".")[0] for name in finding.parameters))
    return next((lines[name] for name in names if name in lines), 1)


def _fingerprint(finding: Finding, report: Report) -> str:
    """The same for a finding that stays, whatever its numbers: the rule, and which model."""
    model = report.model.name or report.model.kind
    return hashlib.sha256(f"{finding.rule}\n{model}".encode()).hexdigest()[:32]


def _stamp(report: Report) -> Json:
    stamp: Json = {"torch": report.environment.torch_version, "seed": report.environment.seed}
    if report.policy is not None:
        stamp["policy"] = report.policy.model_dump(mode="json")
    if report.inspection is not None:
        stamp["inspection"] = report.inspection
    return stamp
