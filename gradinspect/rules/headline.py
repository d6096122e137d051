"""The one sentence at the top of a report: a number and a place."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.rules.catalogue import RULES
from gradinspect.wording import counted, fold, number

_ORDER = {rule.id: place for place, rule in enumerate(RULES)}


def headline(report: Report) -> str:
    """Say the most important thing about a report.

    Findings that count come first, in the catalogue's order: a signal that vanishes explains gradients that are
    uneven, not the other way round.
    """
    counting = [finding for finding in report.findings if finding.severity != "info"]
    if counting:
        return min(counting, key=_importance).message
    if report.verdict == "undetermined":
        return f"This could not be judged: {_why_undetermined(report)}."
    gain = report.depth_decay.cumulative_gain if report.depth_decay is not None else None
    layers = counted(report.summary.layers, "layer call")
    if gain is None or gain <= 0:
        return f"No rule found a problem in {layers}."
    if 0.1 <= gain <= 10:
        kept = f"{number(gain)} times its size at the output"
        return f"Gradients flow: over {layers} the backward signal arrives with {kept}."
    word = "shrinks" if gain < 1 else "grows"
    return f"Gradients flow: over {layers} the backward signal {word} {fold(gain)} from output to input, within bounds."


def _importance(finding: Finding) -> tuple[bool, int]:
    return (finding.rule == "update_ratio", _ORDER.get(finding.rule, len(_ORDER)))


def _why_undetermined(report: Report) -> str:
    decay = report.depth_decay
    if decay is not None and decay.status == "undetermined" and decay.reason:
        return decay.reason
    return "too few layers carry a backward signal"
