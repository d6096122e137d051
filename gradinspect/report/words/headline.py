"""The one sentence at the top of a report: a number and a place."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.wording import counted, fold, number


def headline(report: Report) -> str:
    """Return the most important sentence about a report.

    Findings that count come first, in the catalogue's order: a signal that vanishes explains gradients that are
    uneven, not the other way round. A report of release 0.1.0 does not record that order; there the severest is first.
    """
    counting = [finding for finding in report.findings if finding.severity != "info"]
    if counting:
        order = {outcome.rule: index for index, outcome in enumerate(report.rules)}
        return min(counting, key=lambda finding: _importance(finding, order)).message
    if report.verdict == "undetermined":
        return f"This could not be judged: {_why_undetermined(report)}."
    if report.summary.layers == 0:
        return "No layer call was recognised: the parameters were judged, the way of the signal was not."
    gain = report.depth_decay.cumulative_gain if report.depth_decay is not None else None
    layers = counted(report.summary.layers, "layer call")
    if gain is None or gain <= 0:
        return f"No rule found a problem in {layers}."
    if 0.1 <= gain <= 10:
        size = f"{number(gain)} times its size at the output"
        return f"Gradients flow: over {layers} the backward signal arrives with {size}."
    word = "shrinks" if gain < 1 else "grows"
    return f"Gradients flow: over {layers} the backward signal {word} {fold(gain)} from output to input, within bounds."


def _importance(finding: Finding, order: dict[str, int]) -> tuple[bool, int]:
    return (finding.rule == "update_ratio", order.get(finding.rule, len(order)))


def _why_undetermined(report: Report) -> str:
    decay = report.depth_decay
    if decay is not None and decay.status == "undetermined" and decay.reason:
        return decay.reason
    return "too few layers carry a backward signal"
