"""A report as markdown, for pull requests and CI summaries. Names from the model are code, or escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from gradinspect.contracts.report.operations import Operation
from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.report.sections import LrScales
from gradinspect.contracts.report.trial import Prescription, Trial
from gradinspect.report.columns import Column, columns_with_values
from gradinspect.report.layer_lines import Gap, LayerLine, layer_lines
from gradinspect.report.output_format import OutputFormat
from gradinspect.report.text.text_charts import curve, sparkline
from gradinspect.report.words.figures import printable, shape, shortened
from gradinspect.report.words.headline import headline
from gradinspect.report.words.operation_words import operation_code, operation_in_words, operation_inputs
from gradinspect.report.words.prescription_words import (
    prescription_answer,
    prescription_changes,
    shown_prescription,
)
from gradinspect.report.words.remedy_words import remedy_in_words
from gradinspect.report.words.rule_words import rule_titles
from gradinspect.report.words.scale_words import (
    answer,
    base_rate_words,
    candidate_rows,
    evidence_words,
    remedy_rows,
    scales_code,
)
from gradinspect.report.words.sections import (
    TITLES,
    environment_facts,
    headline_facts,
    measured_sections,
    missing_sections,
    model_name,
    self_check_facts,
)
from gradinspect.report.words.trial_words import (
    OUTVOTED_TITLE,
    arm_rows,
    check_words,
    split_outvoted,
    trial_answer,
    unmoved_words,
)
from gradinspect.wording import number

MOST_LAYERS = 40  # chosen: readable in a pull request
SIGNS = {"pass": "✅", "warn": "⚠️", "fail": "❌", "undetermined": "❔", "info": "ℹ️"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#!|~&@]|:(?=//))")  # has a meaning inside a line, links included


def render_markdown(report: Report, *, most_layers: int = MOST_LAYERS) -> str:
    """Write a report as GitHub-flavoured markdown.

    Args:
        report: the report.
        most_layers: layer calls to list of a longer network: both ends, and the unusual ones between them.
    """
    return "\n".join(_lines(report, most_layers)).rstrip() + "\n"


MARKDOWN = OutputFormat(
    name="markdown",
    title="Markdown",
    media_type="text/markdown",
    suffix="md",
    description="Write markdown for a pull request or a job summary.",
    render=lambda report, _: render_markdown(report),
)


def _lines(report: Report, most_layers: int) -> Iterator[str]:
    yield f"## {SIGNS[report.verdict]} {report.verdict}: {text(model_name(report))}"
    yield ""
    yield f"**{message(headline(report))}**"
    yield ""
    yield " · ".join(f"{label} **{text(value)}**" for label, value in headline_facts(report))
    yield ""
    line = sparkline([row.cumulative_backward_gain for row in report.layers], most=72)
    if line:
        yield f"backward signal, input {code(line)} output"
        yield ""
    found = shown_prescription(report)
    if found is not None:
        yield from _prescription(found)
    if report.findings:
        yield "### Findings"
        yield ""
        titles = rule_titles(report)
        standing, outvoted = split_outvoted(report)
        for finding in standing:
            yield from _finding(finding, titles[finding.rule])
        if outvoted:
            yield f"<details><summary>{OUTVOTED_TITLE}</summary>"
            yield ""
            for finding, outcome in outvoted:
                inferred = f", {outcome.inferred_severity} by itself" if outcome.inferred_severity is not None else ""
                yield f"- {text(titles[finding.rule])} ({code(finding.rule)}{inferred}): {message(finding.message)}"
            yield ""
            yield "</details>"
            yield ""
    if report.trial is not None and report.trial.arms:
        yield from _trial(report.trial)
    if report.layers:
        yield from _layers(report, most_layers)
    for section in measured_sections(report):
        yield f"### {section.title}"
        yield ""
        yield from _table(("", ""), ((label, text(value)) for label, value in section.facts))
    if report.lr_scales is not None and report.lr_scales.status == "measured":
        yield from _scales(report, report.lr_scales)
    missing = missing_sections(report)
    if missing:
        yield "### Not measured"
        yield ""
        yield from (f"- {label}: {text(value)}" for label, value in missing)
        yield ""
    yield from _measured_how(report)


def _prescription(found: Prescription) -> Iterator[str]:
    yield "### Prescription"
    yield ""
    yield f"**{text(prescription_answer(found))}**"
    yield ""
    yield from (f"{index}. {text(change)}" for index, change in enumerate(prescription_changes(found), 1))
    if found.changes:
        yield ""
    if found.curve:
        before, after = (sparkline(losses, most=48) for losses in (found.curve_before, found.curve))
        yield f"training loss as it was {code(before or '–')}, with the changes {code(after or '–')}"
        yield ""
    if found.code is not None:
        yield from fenced(found.code)
        yield ""


def _trial(trial: Trial) -> Iterator[str]:
    yield f"### {TITLES['trial']}"
    yield ""
    yield text(trial_answer(trial))
    yield ""
    rows = [
        (text(row.name), row.outcome, row.skill, row.steps, code(curve(row.curve, most=24)) if row.curve else "")
        for row in arm_rows(trial)
    ]
    yield from _table(("run", "outcome", "learned", "steps", "loss, chance is full"), rows)
    yield text(check_words(trial))
    yield ""
    unmoved = unmoved_words(trial)
    if unmoved is not None:
        yield text(unmoved)
        yield ""


def _finding(finding: Finding, title: str) -> Iterator[str]:
    yield f"- {SIGNS[finding.severity]} **{text(title)}** ({code(finding.rule)}): {message(finding.message)}"
    if finding.severity == "info":
        yield ""
        return
    yield f"  <br>{message(finding.explanation)}"
    if finding.operation is not None:
        yield f"  <br>**Operation:** {_operation(finding.operation)}"
    remedy = finding.remedy
    words = remedy_in_words(remedy) if remedy is not None else None
    if words is not None:
        yield f"  <br>**Change:** {text(words)}"
    yield ""


def _operation(operation: Operation) -> str:
    source = operation_code(operation)
    parts = [message(operation_in_words(operation)), *(text(words) for words in operation_inputs(operation))]
    return " · ".join([*parts, *([code(source)] if source is not None else [])])


def _layers(report: Report, most: int) -> Iterator[str]:
    lines = layer_lines(report, most=most)
    left_out = sum(line.count for line in lines if isinstance(line, Gap))
    total = len(report.layers)
    yield "### Layers" if not left_out else f"### Layers: {total - left_out:,} of {total:,} calls"
    yield ""
    columns = columns_with_values([line.layer for line in lines if isinstance(line, LayerLine)])
    head = ("", "depth", "layer", "kind", "output", *(column.title for column in columns), "notes")
    numeric = (1, *range(5, 5 + len(columns)))
    yield from _table(head, (_layer(line, columns) for line in lines), numeric=numeric)


def _layer(line: LayerLine | Gap, columns: Sequence[Column]) -> Sequence[str]:
    if isinstance(line, Gap):
        return ("", "⋮", f"{line.count:,} left out", *[""] * (len(columns) + 3))
    row = line.layer
    kind = row.kind if row.nonlinearity is None else f"{row.kind} → {row.nonlinearity}"
    name = code(shortened(row.name, 80)) + (f" call {row.call}" if row.call else "")
    flag = SIGNS[line.flag] if line.flag is not None else ""
    values = [column.value(row) for column in columns]
    return (
        flag, str(row.depth), name, text(shortened(printable(kind), 48)), shape(row.output_shape),
        *("–" if value is None else number(value) for value in values), ", ".join(line.notes),
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
    for name, outcome, remedy in remedy_rows(scales):
        yield f"- Tried instead: **{text(name)}** {text(outcome)}"
        yield ""
        if remedy is not None:
            yield from fenced(remedy, indent="  ")
    source = scales_code(report)
    if source is not None:
        yield from fenced(source)


def _measured_how(report: Report) -> Iterator[str]:
    yield "<details><summary>How it was measured</summary>"
    yield ""
    yield from _table(("", ""), ((label, text(value)) for label, value in environment_facts(report)))
    yield from (f"- {label}: {text(value)}" for label, value in self_check_facts(report))
    yield ""
    yield "</details>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[int] = ()) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---:' if index in numeric else '---' for index in range(len(head)))}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def text(value: str) -> str:
    """Escape text so that markdown and HTML show it as it is."""
    return _SPECIAL.sub(r"\\\1", printable(value))


def code(value: str) -> str:
    """Write a name as inline code, valid in a table too: the fence is longer than any run of backticks inside."""
    value = printable(value).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", value)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest or not value.strip() else ""
    return f"{fence}{space}{value}{space}{fence}"


def message(sentence: str) -> str:
    """Escape a sentence and show the names between its backticks as code."""
    parts = printable(sentence).split("`")
    if len(parts) % 2 == 0:  # the name itself contains a backtick
        return text(sentence)
    return "".join(code(part) if index % 2 else text(part) for index, part in enumerate(parts))


def fenced(source: str, *, indent: str = "") -> Iterator[str]:
    """Write source code in a fence that none of its lines can close."""
    lines = [printable(line) for line in source.rstrip("\n").split("\n")]
    longest = max((len(run) for run in re.findall("`+", source)), default=0)
    fence = "`" * max(3, longest + 1)
    yield f"{indent}{fence}python"
    yield from (f"{indent}{line}" for line in lines)
    yield f"{indent}{fence}"
    yield ""
