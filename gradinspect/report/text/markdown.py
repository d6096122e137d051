"""A report as markdown, for pull requests and CI summaries. Names of strangers are code, or escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.report.sections import LrScales
from gradinspect.report.optimizer_code import optimizer_code
from gradinspect.report.text.text_charts import sparkline
from gradinspect.report.words.figures import printable, shape, shortened
from gradinspect.report.words.headline import headline
from gradinspect.report.words.layer_lines import Gap, LayerLine, layer_lines
from gradinspect.report.words.remedy_words import remedy_in_words
from gradinspect.report.words.scale_words import answer, base_rate_words, candidate_rows, evidence_words, remedy_rows
from gradinspect.report.words.sections import (
    TITLES,
    environment_facts,
    headline_facts,
    measured_sections,
    self_check_words,
    undetermined_sections,
)
from gradinspect.rules import RULES
from gradinspect.wording import number

MOST_LAYERS = 40  # chosen: what a summary in a pull request can hold
SIGNS = {"pass": "✅", "warn": "⚠️", "fail": "❌", "undetermined": "❔", "info": "ℹ️"}
_RULES = {rule.id: rule for rule in RULES}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#!|~&@]|:(?=//))")  # what means something inside a line, links included


def render_markdown(report: Report, *, most_layers: int = MOST_LAYERS) -> str:
    """Write a report as GitHub-flavoured markdown.

    Args:
        report: the report.
        most_layers: layer calls to list of a longer network: the ends, and what stands out between.
    """
    return "\n".join(_lines(report, most_layers)).rstrip() + "\n"


def _lines(report: Report, most_layers: int) -> Iterator[str]:
    name = printable(report.model.name or report.model.id or report.model.kind)
    yield f"## {SIGNS[report.verdict]} {report.verdict}: {text(name)}"
    yield ""
    yield f"**{message(headline(report))}**"
    yield ""
    yield " · ".join(f"{label} **{text(value)}**" for label, value in headline_facts(report))
    yield ""
    line = sparkline([row.cumulative_backward_gain for row in report.layers], most=72)
    if line:
        yield f"backward signal, input {code(line)} output"
        yield ""
    if report.findings:
        yield "### Findings"
        yield ""
        for finding in report.findings:
            yield from _finding(finding)
    if report.layers:
        yield from _layers(report, most_layers)
    for section in measured_sections(report):
        yield f"### {section.title}"
        yield ""
        yield from _table(("", ""), ((label, text(value)) for label, value in section.facts))
    if report.lr_scales is not None and report.lr_scales.status == "measured":
        yield from _scales(report, report.lr_scales)
    missing = undetermined_sections(report)
    if missing:
        yield "### Not measured"
        yield ""
        yield from (f"- {label}: {text(value)}" for label, value in missing)
        yield ""
    yield from _measured_how(report)


def _finding(finding: Finding) -> Iterator[str]:
    rule = _RULES.get(finding.rule)
    title = rule.title if rule is not None else finding.rule.replace("_", " ")
    yield f"- {SIGNS[finding.severity]} **{text(printable(title))}** ({code(finding.rule)}): {message(finding.message)}"
    if finding.severity == "info":
        yield ""
        return
    yield f"  <br>{message(finding.explanation)}"
    remedy = finding.remedy
    words = remedy_in_words(remedy) if remedy is not None else None
    if words is not None:
        yield f"  <br>**Change:** {text(words)}"
    yield ""
    if remedy is not None and remedy.code:
        yield from fenced(remedy.code, indent="  ")


def _layers(report: Report, most: int) -> Iterator[str]:
    lines = layer_lines(report, most=most)
    left_out = sum(line.count for line in lines if isinstance(line, Gap))
    total = len(report.layers)
    yield "### Layers" if not left_out else f"### Layers: {total - left_out:,} of {total:,} calls"
    yield ""
    head = ("", "depth", "layer", "kind", "output", "signal rms", "backward gain", "cumulative", "of activation",
            "of weights", "gradient norm", "notes")  # fmt: skip
    yield from _table(head, (_layer(line, len(head)) for line in lines), numeric=(1, 5, 6, 7, 8, 9, 10))


def _layer(line: LayerLine | Gap, cells: int) -> Sequence[str]:
    if isinstance(line, Gap):
        return ("", "⋮", f"{line.count:,} left out", *[""] * (cells - 3))
    row = line.layer
    kind = row.kind if row.nonlinearity is None else f"{row.kind} → {row.nonlinearity}"
    numbers = (
        row.signal.rms if row.signal is not None else None, row.backward_gain, row.cumulative_backward_gain,
        row.activation_gain, row.weight_gain, line.grad_norm,
    )  # fmt: skip
    name = code(shortened(row.name, 80)) + (f" call {row.call}" if row.call else "")
    return (
        SIGNS[line.flag] if line.flag is not None else "", str(row.depth), name, text(shortened(printable(kind), 48)),
        shape(row.output_shape), *("–" if value is None else number(value) for value in numbers), ", ".join(line.notes),
    )  # fmt: skip


def _scales(report: Report, scales: LrScales) -> Iterator[str]:
    yield f"### {TITLES['lr_scales']}"
    yield ""
    base = base_rate_words(scales)
    yield f"**{text(answer(scales))}**{f' Use it with the {base}.' if base and scales.verdict == 'use' else ''}"
    yield ""
    if scales.groups:
        groups = (
            (code(shortened(group.layer, 80)), "–" if group.scale is None else number(group.scale))
            for group in scales.groups
        )
        yield from _table(("layer", "scale"), groups, numeric=(1,))
    candidates = candidate_rows(scales)
    if candidates:
        head = ("method", "spread, decades", "loss against uniform", "per seed")
        yield from _table(head, ([text(cell) for cell in row] for row in candidates), numeric=(1, 2))
    evidence = evidence_words(scales)
    if evidence:
        yield text(evidence)
        yield ""
    for name, outcome, source in remedy_rows(scales):
        yield f"- Probed instead: **{text(name)}** {text(outcome)}"
        yield ""
        if source is not None:
            yield from fenced(source, indent="  ")
    if scales.verdict == "use":
        yield from fenced(scales.code or optimizer_code(scales, optimizer=report.optimizer))


def _measured_how(report: Report) -> Iterator[str]:
    yield "<details><summary>How it was measured</summary>"
    yield ""
    yield from _table(("", ""), ((label, text(value)) for label, value in environment_facts(report)))
    yield from (f"- self-check: {text(self_check_words(check))}" for check in report.self_checks)
    yield ""
    yield "</details>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[int] = ()) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---:' if index in numeric else '---' for index in range(len(head)))}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def text(value: str) -> str:
    """Text that markdown and HTML leave as it is."""
    return _SPECIAL.sub(r"\\\1", printable(value))


def code(value: str) -> str:
    """A name as inline code, in a table too: a fence longer than any run of backticks inside."""
    value = printable(value).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", value)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest or not value.strip() else ""
    return f"{fence}{space}{value}{space}{fence}"


def message(sentence: str) -> str:
    """A rule's sentence, whose names stand between backticks."""
    parts = printable(sentence).split("`")
    if len(parts) % 2 == 0:  # a name holds a backtick itself
        return text(sentence)
    return "".join(code(part) if index % 2 else text(part) for index, part in enumerate(parts))


def fenced(source: str, *, indent: str = "") -> Iterator[str]:
    """Source in a fence that no line of it can close."""
    lines = [printable(line) for line in source.rstrip("\n").split("\n")]
    longest = max((len(run) for run in re.findall("`+", source)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{indent}{fence}python"
    yield from (f"{indent}{line}" for line in lines)
    yield f"{indent}{fence}"
    yield ""
