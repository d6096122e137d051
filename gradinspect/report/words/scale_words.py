"""The learning-rate suggestion in words: the answer, its evidence, and remedies that were tried."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradinspect.contracts.report.optimizer_code import optimizer_code
from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.sections import LrScales, ScaleGroup
from gradinspect.report.words.figures import printable
from gradinspect.wording import number

_ANSWERS = {
    "use": "Use these scales: they trained better than one learning rate for all layers, on this very model.",
    "keep_uniform": "Keep one learning rate for all layers: scales would not help this model.",
    "inconclusive_plateau": "Undecided: nothing learned within the probe's steps, so it cannot say which scales help.",
    "none_learns": "Neither a learning rate nor scales let this model learn; change network or optimizer first.",
}


def answer(scales: LrScales) -> str:
    """Write the suggestion as one sentence."""
    if scales.status == "undetermined":
        return f"No suggestion: {printable(scales.reason or 'no reason was given')}"
    if scales.verdict == "undetermined":
        method = f" by {printable(scales.method)}" if scales.method is not None else ""
        reason = f" ({printable(scales.reason)})" if scales.reason else ""
        return f"Computed{method}, and not tested on this model{reason}." if scales.groups else f"No answer{reason}."
    return _ANSWERS[scales.verdict]


def spread_dex(groups: Sequence[ScaleGroup]) -> float | None:
    """Return log10 of the largest scale over the smallest; None without scales."""
    known = [group.scale for group in groups if group.scale is not None and group.scale > 0]
    return math.log10(max(known) / min(known)) if known else None


def evidence_words(scales: LrScales) -> str | None:
    """Write what the answer is based on, and its limits; None without evidence."""
    evidence = scales.evidence
    if evidence is None:
        return None
    cautions = []
    if evidence.is_synthetic:
        cautions.append("The targets came from a fixed random teacher.")
    if not evidence.is_complete:
        cautions.append("The budget ended before everything was tried.")
    return printable(" ".join([evidence.statement, *cautions]))


def candidate_rows(scales: LrScales) -> list[tuple[str, str, str, str]]:
    """Write one row per method that was tried: name, spread, loss over that of uniform, the same for each seed."""
    rows = []
    for candidate in scales.candidates:
        ratio = number(candidate.ratio) if candidate.ratio is not None else "–"
        seeds = ", ".join(number(one) if one is not None else "–" for one in candidate.per_seed)
        seeds = seeds or printable(candidate.reason or "")
        spread = f"{candidate.spread_dex:.2f}" if candidate.spread_dex is not None else "–"
        rows.append((printable(candidate.method), spread, ratio, seeds or "–"))
    return rows


def remedy_rows(scales: LrScales) -> list[tuple[str, str, str | None]]:
    """Write one row per remedy that was tried: its name, its outcome, and its code where the model learned."""
    rows: list[tuple[str, str, str | None]] = []
    for remedy in scales.remedies:
        name = printable(remedy.name).replace("_", " ")
        ratio = remedy.loss_ratio
        ended = f": its loss ended at {number(ratio)} of the loss without learning" if ratio is not None else ""
        outcome = "learned" if remedy.learned else "did not learn"
        rows.append((name, outcome + ended, remedy.code if remedy.learned else None))
    return rows


def group_note(group: ScaleGroup) -> str:
    """Write what is special about a group's scale; empty for most."""
    return {None: "", "no_gradient": "no gradient", "equalized": "by 1/RMS(g)"}[group.note]


def base_rate_words(scales: LrScales) -> str | None:
    """Write the base learning rate of the answer; None without one."""
    return f"base learning rate {number(scales.base_lr)}" if scales.base_lr is not None else None


def scales_code(report: Report) -> str | None:
    """Return source that builds the optimizer, where the answer is to use scales; None otherwise."""
    scales = report.lr_scales
    if scales is None or scales.verdict != "use":
        return None
    return scales.code or optimizer_code(scales, optimizer=report.optimizer)
