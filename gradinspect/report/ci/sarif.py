"""A report as SARIF 2.1.0, which code scanning reads: one result per finding.

A network's layers are logical locations. Code scanning also needs a file, so every result is in the model's file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from gradinspect.contracts.report.outcomes import RuleOutcome
from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.request.policy import LEVELS, Severity
from gradinspect.report.output_format import OutputFormat
from gradinspect.report.words.prescription_words import (
    prescription_answer,
    prescription_changes,
    shown_prescription,
)
from gradinspect.report.words.rule_words import leaves_verdict_open, reason_not_applied, was_applied
from gradinspect.version import __version__

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
MOST_LOCATIONS = 100  # chosen: GitHub's code scanning accepts a thousand and shows the first
_LEVELS: dict[Severity, str] = {"info": "note", "warn": "warning", "fail": "error"}

Json = dict[str, Any]  # Any: SARIF's own nesting


def render_sarif(report: Report, *, artifact: str = "model", lines: Mapping[str, int] | None = None) -> str:
    """Write a report as SARIF.

    Args:
        report: the report. One of release 0.1.0 recorded findings only: the run lists no rules.
        artifact: the model's file as the repository knows it, with `/` between folders.
        lines: the line of each layer in that file, from 1; a finding without one is put on line 1.

    Source: OASIS, Static Analysis Results Interchange Format 2.1.0, sections 3.14 (run) to 3.49 (rules).
    """
    indices = {outcome.rule: index for index, outcome in enumerate(report.rules)}
    driver: Json = {
        "name": "gradinspect",
        "version": __version__,
        "rules": [_rule(rule, report) for rule in report.rules],
    }
    run: Json = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": _notifications(report)}],
        "results": [_result(finding, report, artifact, lines or {}, indices) for finding in report.findings],
        "columnKind": "unicodeCodePoints",
        "properties": {"verdict": report.verdict, **_stamp(report)},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


SARIF = OutputFormat(
    name="sarif",
    title="SARIF",
    media_type="application/sarif+json",
    suffix="sarif",
    description="Write SARIF 2.1.0 for code scanning.",
    render=lambda report, circumstances: render_sarif(
        report, artifact=circumstances.artifact, lines=circumstances.lines
    ),
)


def _rule(outcome: RuleOutcome, report: Report) -> Json:
    severest: Severity = max(outcome.thresholds, key=LEVELS.index, default="info")
    return {
        "id": outcome.rule,
        "name": "".join(word.capitalize() for word in outcome.rule.split("_")),
        "shortDescription": {"text": f"{outcome.title}."},
        "fullDescription": {"text": outcome.what},
        "help": {"text": f"{outcome.why}\n\nSource: {outcome.source}.{_plan(outcome.rule, report)}"},
        "defaultConfiguration": {"level": _LEVELS[severest]},
    }


def _plan(rule: str, report: Report) -> str:
    """Write the prescription into the help of the rules that found something."""
    found = shown_prescription(report)
    if found is None or not any(finding.rule == rule and finding.severity != "info" for finding in report.findings):
        return ""
    changes = "".join(f"\n{index}. {change}" for index, change in enumerate(prescription_changes(found), 1))
    code = f"\n\n{found.code}" if found.code is not None else ""
    return f"\n\n{prescription_answer(found)}{changes}{code}"


def _notifications(report: Report) -> list[Json]:
    """List the rules that neither passed nor found anything: the run says nothing about them."""
    return [
        {
            "level": "warning" if leaves_verdict_open(outcome, report) else "note",
            "associatedRule": {"id": outcome.rule, "index": index},
            "message": {"text": f"{outcome.rule} was not applied: {reason_not_applied(outcome)}"},
        }
        for index, outcome in enumerate(report.rules)
        if not was_applied(outcome)
    ]


def _result(
    finding: Finding, report: Report, artifact: str, lines: Mapping[str, int], indices: Mapping[str, int]
) -> Json:
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
    if finding.rule in indices:
        result["ruleIndex"] = indices[finding.rule]
    if finding.remedy is not None:
        result["properties"]["remedy"] = finding.remedy.model_dump(mode="json")
    return result


def _line(finding: Finding, lines: Mapping[str, int]) -> int:
    """Return the line of the first layer of a finding; GitHub's code scanning requires one, so 1 when none is known."""
    names = (*finding.layers, *(name.rpartition(".")[0] for name in finding.parameters))
    return next((lines[name] for name in names if name in lines), 1)


def _fingerprint(finding: Finding, report: Report) -> str:
    """Identify a finding across runs by its rule and its model, whatever its numbers."""
    model = report.model.name or report.model.kind
    return hashlib.sha256(f"{finding.rule}\n{model}".encode()).hexdigest()[:32]


def _stamp(report: Report) -> Json:
    stamp: Json = {"torch": report.environment.torch_version, "seed": report.environment.seed}
    if report.policy is not None:
        stamp["policy"] = report.policy.model_dump(mode="json")
    if report.inspection is not None:
        stamp["inspection"] = report.inspection
    return stamp
