"""A report for a terminal: one sentence, the findings with what to change, the network layer by layer, the rest.

It reads the same without colour: every colour stands beside a word or a sign. Names of strangers are stripped of
control characters before they come near a terminal.
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

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.report.sections import LrScales
from gradinspect.report.optimizer_code import optimizer_code
from gradinspect.report.text.layer_table import layer_table
from gradinspect.report.text.text_charts import centred_bar, sparkline
from gradinspect.report.words.figures import printable, shortened
from gradinspect.report.words.headline import headline
from gradinspect.report.words.remedy_words import remedy_in_words
from gradinspect.report.words.scale_words import (
    answer,
    base_rate_words,
    candidate_rows,
    evidence_words,
    group_note,
    remedy_rows,
    spread_dex,
)
from gradinspect.report.words.sections import (
    TITLES,
    Fact,
    environment_facts,
    headline_facts,
    measured_sections,
    self_check_words,
    undetermined_sections,
)
from gradinspect.rules import RULES
from gradinspect.wording import counted, number

NARROWEST, WIDEST = 60, 140  # columns; lines longer than 140 are hard to follow
MOST_LAYERS = 40  # chosen: a screen; longer networks show their ends and their worst
MOST_SCALES = 24
SIGNS = {"pass": "✔", "warn": "!", "fail": "✖", "undetermined": "?", "info": "·"}
_STYLES = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red", "undetermined": "bold blue", "info": "blue"}
_QUIET = "bright_black"
_RULES = {rule.id: rule for rule in RULES}


@dataclass(frozen=True)
class _Code:
    """Source code: printed as it is, because a line that was wrapped or cut does not run."""

    text: str
    indent: int = 6


_Part = RenderableType | _Code


def render_terminal(report: Report, *, width: int = 100, color: bool = False, most_layers: int = MOST_LAYERS) -> str:
    """Write a report for a terminal.

    Args:
        report: the report.
        width: columns, at least 60; only code may be wider.
        color: use ANSI colours.
        most_layers: layer calls to list of a longer network: the ends, and what stands out between.
    """
    width = max(width, NARROWEST)
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=color, color_system="standard" if color else None, no_color=not color,
        highlight=False, markup=False, emoji=False, legacy_windows=False,
    )  # fmt: skip
    for part in _parts(report, width, most_layers):
        if isinstance(part, _Code):
            source = "\n".join(" " * part.indent + printable(line) for line in part.text.rstrip("\n").split("\n"))
            console.print(Text(source, style="green"), soft_wrap=True)
        else:
            console.print(Padding(part, (0, 1)))
    lines = out.getvalue().split("\n")
    return "\n".join(lines if color else (line.rstrip() for line in lines))


def _parts(report: Report, width: int, most_layers: int) -> Iterator[_Part]:
    yield from _title(report, width)
    yield from _titled("Findings", _findings(report))
    if report.layers:
        yield from _titled("Layers", [layer_table(report, width=width - 2, most=most_layers)])
    for section in measured_sections(report):
        yield from _titled(section.title, [_facts(section.facts)])
    if report.lr_scales is not None and report.lr_scales.status == "measured":
        yield from _titled(TITLES["lr_scales"], _scales(report, report.lr_scales))
    missing = undetermined_sections(report)
    if missing:
        yield from _titled("Not measured", [_facts(missing)])
    yield from _titled("How it was measured", _measured_how(report))


def _titled(title: str, parts: Iterable[_Part]) -> Iterator[_Part]:
    yield Text("")
    yield Text(title, style="bold underline")
    yield from parts


def _title(report: Report, width: int) -> Iterator[_Part]:
    verdict = report.verdict
    name = printable(report.model.name or report.model.id or report.model.kind)
    yield Text("")
    yield Text.assemble(
        (f"{SIGNS[verdict]} {verdict.upper()}", _STYLES[verdict]), "  ", (shortened(name, width - 20), "bold")
    )
    yield Text("")
    yield _message(headline(report))
    yield Text("")
    yield _inline(headline_facts(report))
    line = sparkline([row.cumulative_backward_gain for row in report.layers], most=min(width - 36, 72))
    if line:
        yield Text.assemble(("backward signal  input ", _QUIET), (line, "cyan"), (" output", _QUIET))


def _findings(report: Report) -> Iterator[_Part]:
    if not report.findings:
        yield Text("No rule found anything.")
    said = {headline(report)}
    for index, finding in enumerate(report.findings):
        if index:
            yield Text("")
        yield from _finding(finding, said)


def _finding(finding: Finding, said: set[str]) -> Iterator[_Part]:
    """One finding; what has been `said` already is not said again."""
    rule = _RULES.get(finding.rule)
    title = rule.title if rule is not None else finding.rule.replace("_", " ")
    sign = f"{SIGNS[finding.severity]} {finding.severity}"
    yield Text.assemble(
        (sign, _STYLES[finding.severity]), "  ", (printable(title), "bold"), (f"  {printable(finding.rule)}", _QUIET)
    )
    if finding.message not in said:
        yield _indented(_message(finding.message))
    if finding.severity == "info":
        return
    yield _indented(_message(finding.explanation, style=_QUIET))
    remedy = finding.remedy
    if remedy is None:
        return
    words = remedy_in_words(remedy)
    if words is not None:
        yield _indented(Text.assemble(("Change: ", "bold green"), words))
    if remedy.code and remedy.code not in said:
        said.add(remedy.code)
        yield _Code(remedy.code)


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
        yield Text.assemble(("Probed instead: ", "bold green"), name, " ", outcome)
        if code is not None:
            yield _Code(code)
    if scales.verdict == "use" and len(scales.groups) <= MOST_SCALES:
        yield Text("")
        yield _Code(scales.code or optimizer_code(scales, optimizer=report.optimizer))


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
    if report.policy is not None:
        version = f", version {report.policy.version}" if report.policy.name != "default" else ""
        yield Text.assemble(("judged by the policy ", _QUIET), printable(report.policy.name), version)
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
    """A sentence of a rule, with the names between backticks made visible."""
    text = Text(style=style)
    for index, part in enumerate(printable(message).split("`")):
        text.append(f"`{part}`" if index % 2 else part, style="cyan" if index % 2 else "")
    return text
