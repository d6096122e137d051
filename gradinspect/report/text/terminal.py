"""A report for a terminal: one sentence, the findings with what to change, the network layer by layer, the rest.

Colour repeats what a word or a sign says. Control characters in the model's names are replaced.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradinspect.contracts.report.operations import Operation
from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.report.sections import LrScales
from gradinspect.contracts.report.trial import Prescription, Trial
from gradinspect.report.text.layer_table import layer_table
from gradinspect.report.text.source_lines import fitted
from gradinspect.report.text.text_charts import centred_bar, curve, sparkline
from gradinspect.report.words.figures import printable, shortened
from gradinspect.report.words.headline import headline, main_sentence
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
    group_note,
    remedy_rows,
    scales_code,
    spread_dex,
)
from gradinspect.report.words.sections import (
    TITLES,
    Fact,
    environment_facts,
    headline_facts,
    measured_sections,
    missing_sections,
    model_name,
    self_check_words,
)
from gradinspect.report.words.trial_words import (
    OUTVOTED_TITLE,
    arm_rows,
    check_words,
    split_outvoted,
    trial_answer,
    unmoved_words,
)
from gradinspect.wording import counted, number

NARROWEST, WIDEST = 60, 140  # columns; lines longer than 140 are hard to follow
MOST_LAYERS = 40  # chosen: a screen; longer networks show their ends and their worst
MOST_SCALES = 24
CODE_INDENT = 4
SIGNS = {"pass": "✔", "warn": "!", "fail": "✖", "undetermined": "?", "info": "·"}
_STYLES = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red", "undetermined": "bold blue", "info": "blue"}
_QUIET = "bright_black"


@dataclass(frozen=True)
class _Code:
    """Source code. It must run when it is copied, so only `fitted` breaks its lines."""

    text: str


_Part = RenderableType | _Code


def render_terminal(report: Report, *, width: int = 100, color: bool = False, most_layers: int = MOST_LAYERS) -> str:
    """Write a report for a terminal.

    Args:
        report: the report.
        width: columns, at least 60; only code that cannot be broken may be wider.
        color: use ANSI colours.
        most_layers: layer calls to list of a longer network: both ends, and the unusual ones between them.
    """
    width = max(width, NARROWEST)
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=color, color_system="standard" if color else None, no_color=not color,
        highlight=False, markup=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    for part in _parts(report, width, most_layers):
        if isinstance(part, _Code):
            source = (" " * CODE_INDENT + printable(line) for line in fitted(part.text, width - CODE_INDENT))
            console.print(Text("\n".join(source), style="green"), soft_wrap=True)
        else:
            console.print(Padding(part, (0, 1)))
    lines = out.getvalue().split("\n")
    return "\n".join(lines if color else (line.rstrip() for line in lines))


def _parts(report: Report, width: int, most_layers: int) -> Iterator[_Part]:
    yield from _title(report, width)
    found = shown_prescription(report)
    if found is not None:
        yield from _titled("Prescription", _prescription(found))
    yield from _titled("Findings", _findings(report))
    if report.trial is not None and report.trial.arms:
        yield from _titled(TITLES["trial"], _trial(report.trial))
    if report.layers:
        yield from _titled("Layers", [layer_table(report, width=width - 2, most=most_layers)])
    for section in measured_sections(report):
        yield from _titled(section.title, [_facts(section.facts)])
    if report.lr_scales is not None and report.lr_scales.status == "measured":
        yield from _titled(TITLES["lr_scales"], _scales(report, report.lr_scales))
    missing = missing_sections(report)
    if missing:
        yield from _titled("Not measured", [_facts(missing)])
    yield from _titled("How it was measured", _measured_how(report))


def _titled(title: str, parts: Iterable[_Part]) -> Iterator[_Part]:
    yield Text("")
    yield Text(title, style="bold underline")
    yield from parts


def _title(report: Report, width: int) -> Iterator[_Part]:
    verdict = report.verdict
    name = shortened(printable(model_name(report)), width - 20)
    yield Text("")
    yield Text.assemble((f"{SIGNS[verdict]} {verdict.upper()}", _STYLES[verdict]), "  ", (name, "bold"))
    yield Text("")
    yield _message(headline(report))
    yield Text("")
    yield _inline(headline_facts(report))
    line = sparkline([row.cumulative_backward_gain for row in report.layers], most=min(width - 36, 72))
    if line:
        yield Text.assemble(("backward signal  input ", _QUIET), (line, "cyan"), (" output", _QUIET))


def _prescription(found: Prescription) -> Iterator[_Part]:
    yield Text(prescription_answer(found), style="bold")
    for index, change in enumerate(prescription_changes(found), 1):
        yield _indented(Text(f"{index}. {change}"))
    if found.curve:
        before, after = (sparkline(losses, most=28) for losses in (found.curve_before, found.curve))
        yield Text.assemble(
            ("training loss as it was ", _QUIET), (before, "red"), (", with the changes ", _QUIET), (after, "green")
        )
    if found.code is not None:
        yield Text("")
        yield _Code(found.code)


def _findings(report: Report) -> Iterator[_Part]:
    if not report.findings:
        yield Text("No rule found a problem.")
    titles = rule_titles(report)
    standing, outvoted = split_outvoted(report)
    for index, finding in enumerate(standing):
        if index:
            yield Text("")
        yield from _finding(finding, titles[finding.rule], printed=main_sentence(report))
    if outvoted:
        yield Text("")
        yield Text(f"{OUTVOTED_TITLE}:", style=_QUIET)
    for finding, outcome in outvoted:
        inferred = f"  {outcome.inferred_severity} by itself" if outcome.inferred_severity is not None else ""
        words = Text.assemble(titles[finding.rule], (f"  {printable(finding.rule)}{inferred}", _QUIET))
        yield _indented(words)


def _trial(trial: Trial) -> Iterator[_Part]:
    yield Text(trial_answer(trial), style="bold")
    rows = [(row.name, row.outcome, row.skill, row.steps, curve(row.curve, most=24)) for row in arm_rows(trial)]
    yield _table(("run", "outcome", "learned", "steps", "loss, chance is full"), rows, numeric=(2, 3))
    yield Text(check_words(trial), style=_QUIET)
    unmoved = unmoved_words(trial)
    if unmoved is not None:
        yield Text(unmoved, style=_QUIET)


def _finding(finding: Finding, title: str, *, printed: str) -> Iterator[_Part]:
    """Write a finding, without its message where that is printed already."""
    sign = f"{SIGNS[finding.severity]} {finding.severity}"
    yield Text.assemble(
        (sign, _STYLES[finding.severity]), "  ", (printable(title), "bold"), (f"  {printable(finding.rule)}", _QUIET)
    )
    if finding.message != printed:
        yield _indented(_message(finding.message))
    if finding.severity == "info":
        return
    yield _indented(_message(finding.explanation, style=_QUIET))
    if finding.operation is not None:
        yield _indented(_operation(finding.operation))
    words = remedy_in_words(finding.remedy) if finding.remedy is not None else None
    if words is not None:
        yield _indented(Text.assemble(("Change: ", "bold green"), words))


def _operation(operation: Operation) -> Text:
    text = Text.assemble(("Operation: ", "bold"), _message(operation_in_words(operation)))
    for words in operation_inputs(operation):
        text.append(f" · {words}", _QUIET)
    code = operation_code(operation)
    return text if code is None else text.append(f"\n  {code}", "green")


def _scales(report: Report, scales: LrScales) -> Iterator[_Part]:
    yield Text(answer(scales), style="bold")
    spread = spread_dex(scales.groups)
    facts = [
        f"method {printable(scales.method)}" if scales.method is not None else None,
        base_rate_words(scales),
        f"scales spread over {spread:.2f} decades" if spread is not None else None,
    ]
    known = [fact for fact in facts if fact is not None]
    if known:
        yield Text(" · ".join(known), style=_QUIET)
    if scales.groups:
        yield _scale_table(scales)
    candidates = candidate_rows(scales)
    if candidates:
        yield Text("")
        yield _table(("method", "spread, decades", "loss against uniform", "per seed"), candidates, numeric=(1, 2))
    evidence = evidence_words(scales)
    if evidence:
        yield Text(evidence, style=_QUIET)
    for name, outcome, code in remedy_rows(scales):
        yield Text.assemble(("Tried instead: ", "bold green"), name, " ", outcome)
        if code is not None:
            yield _Code(code)
    source = scales_code(report)
    if source is not None and len(scales.groups) <= MOST_SCALES:
        yield Text("")
        yield _Code(source)


def _scale_table(scales: LrScales) -> RenderableType:
    table = _table(("layer", "scale", "", "cv", ""), [], numeric=(1, 3))
    groups = scales.groups
    shown = groups if len(groups) <= MOST_SCALES else (*groups[: MOST_SCALES // 2], *groups[-(MOST_SCALES // 2) :])
    widest = max((abs(math.log2(group.scale)) for group in groups if group.scale), default=0.0)
    for index, group in enumerate(shown):
        if len(groups) > len(shown) and index == len(shown) // 2:
            table.add_row(Text(f"… {counted(len(groups) - len(shown), 'layer')} left out", style=_QUIET))
        scale = "–" if group.scale is None else f"× {number(group.scale)}"
        bar = centred_bar(math.log2(group.scale), widest, 8) if group.scale else ""
        cv = number(group.cv) if group.cv is not None else ""
        table.add_row(
            Text(shortened(printable(group.layer), 40)), Text(scale), Text(bar, style="cyan"), Text(cv, style=_QUIET),
            Text(group_note(group), style=_QUIET),
        )  # fmt: skip
    return table


def _measured_how(report: Report) -> Iterator[_Part]:
    yield _inline(environment_facts(report))
    for check in report.self_checks:
        style = "bold red" if check.status == "failed" else _QUIET
        yield Text(f"self-check: {self_check_words(check)}", style=style)


def _inline(facts: Sequence[Fact]) -> Text:
    text = Text()
    for index, (label, value) in enumerate(facts):
        text.append(" · " if index else "", _QUIET)
        text.append(f"{label} ", _QUIET).append(value)
    return text


def _indented(content: Text) -> RenderableType:
    return Padding(content, (0, 0, 0, 2))


def _facts(facts: Sequence[Fact]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=_QUIET, overflow="fold")
    grid.add_column(overflow="fold")
    for label, value in facts:
        grid.add_row(Text(label), Text(value))
    return grid


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: Sequence[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_QUIET)
    for index, title in enumerate(head):
        table.add_column(Text(title), justify="right" if index in numeric else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _message(message: str, *, style: str = "") -> Text:
    """Style the names between the backticks of a sentence."""
    text = Text(style=style)
    for index, part in enumerate(printable(message).split("`")):
        text.append(f"`{part}`" if index % 2 else part, style="cyan" if index % 2 else "")
    return text
