"""A report as one HTML file that stands alone: no script, nothing fetched, every name escaped; and for notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.contracts.report.sections import LrScales
from gradinspect.contracts.request.policy import DEFAULT_POLICY, LEVELS, Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.charts.plotting import escaped
from gradinspect.report.charts.scale_charts import paired_evidence, scale_bars
from gradinspect.report.charts.signal_charts import signal_profile
from gradinspect.report.html.parts import code, facts, inline, mark, message, table
from gradinspect.report.optimizer_code import optimizer_code
from gradinspect.report.words.figures import printable, shape
from gradinspect.report.words.headline import headline
from gradinspect.report.words.layer_lines import Gap, LayerLine, layer_lines
from gradinspect.report.words.remedy_words import remedy_in_words
from gradinspect.report.words.scale_words import (
    answer,
    base_rate_words,
    candidate_rows,
    evidence_words,
    group_note,
    remedy_rows,
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
from gradinspect.rules import RULES, assess
from gradinspect.wording import number

MOST_LAYERS = 2_000  # chosen: beyond it a browser is slow; the JSON and the CSV have all
MOST_NOTEBOOK_LAYERS = 40
MOST_NAMES = 8
_RULES = {rule.id: rule for rule in RULES}


def render_html(report: Report, *, policy: Policy | None = None, settings: InspectionSettings | None = None) -> str:
    """Write a report as a page.

    Args:
        report: the report.
        policy: what judged it, for the lines in the chart and the rules that found nothing; left out, the built-in one
            when the report names it.
        settings: what was asked for, where it is known.
    """
    name = escaped(_name(report))
    body = _body(report, policy, settings, most=MOST_LAYERS, table_id="layers-table")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{report.verdict}: {name}</title>\n<style>\n{_style()}</style></head>\n"
        f'<body class="gradinspect-page"><main class="gradinspect">\n{body}\n</main></body></html>\n'
    )


def notebook_html(report: Report, *, policy: Policy | None = None, settings: InspectionSettings | None = None) -> str:
    """Write a report for a notebook's cell: the same, with fewer rows and nothing that reaches outside of it."""
    body = _body(report, policy, settings, most=MOST_NOTEBOOK_LAYERS, table_id=None)
    return f'<div class="gradinspect"><style>\n{_style()}</style>\n{body}\n</div>'


@cache
def _style() -> str:
    return files("gradinspect.report.html").joinpath("page.css").read_text(encoding="utf-8")


def _body(
    report: Report, policy: Policy | None, settings: InspectionSettings | None, *, most: int, table_id: str | None
) -> str:
    if policy is None and (report.policy is None or report.policy.name == DEFAULT_POLICY.name):
        policy = DEFAULT_POLICY
    parts = [
        f"{mark(report.verdict)} <b>{escaped(_name(report))}</b>",
        f"<h1>{message(headline(report))}</h1>",
        inline(headline_facts(report)),
        "<h2>Findings</h2>",
        *(_finding(finding) for finding in report.findings),
        "" if report.findings else "<p>No rule found anything.</p>",
        *_quiet_rules(report, policy, settings),
    ]
    if report.layers:
        parts += [f"<h2>{TITLES['depth_decay']}</h2>", _chart(report.layers, policy, table_id)]
        parts += [facts(section.facts) for section in measured_sections(report) if section.name == "depth_decay"]
        parts += _layers(report, most, table_id)
    for section in measured_sections(report):
        if section.name != "depth_decay":
            parts += [f"<h2>{escaped(section.title)}</h2>", facts(section.facts)]
    if report.lr_scales is not None and report.lr_scales.status == "measured":
        own_id = "scales-table" if table_id is not None else None
        parts += [f"<h2>{TITLES['lr_scales']}</h2>", *_scales(report, report.lr_scales, own_id)]
    missing = undetermined_sections(report)
    if missing:
        parts += ["<h2>Not measured</h2>", facts(missing)]
    parts += ["<h2>How it was measured</h2>", facts(_measured_how(report))]
    return "\n".join(part for part in parts if part)


def _name(report: Report) -> str:
    return report.model.name or report.model.id or report.model.kind


def _measured_how(report: Report) -> Iterator[Fact]:
    yield from environment_facts(report)
    if report.policy is not None:
        yield Fact("judged by", f"{printable(report.policy.name)}, version {report.policy.version}")
    for check in report.self_checks:
        yield Fact("self-check", self_check_words(check))


def _finding(finding: Finding) -> str:
    rule = _RULES.get(finding.rule)
    title = rule.title if rule is not None else finding.rule.replace("_", " ")
    inside = [f"<p>{message(finding.explanation)}</p>"]
    for word, names in (("Layers", finding.layers), ("Parameters", finding.parameters)):
        if names:
            inside.append(f"<p>{word}: {_names(names)}</p>")
    remedy = finding.remedy
    words = remedy_in_words(remedy) if remedy is not None else None
    if words is not None:
        inside.append(f"<p><b>What to change:</b> {escaped(words)}</p>")
    if remedy is not None and remedy.code:
        inside.append(code(remedy.code))
    source = f" After {escaped(rule.reference)}." if rule is not None else ""
    inside.append(f'<p class="quiet">Rule <code>{escaped(finding.rule)}</code>.{source}</p>')
    is_open = " open" if finding.severity == "fail" else ""
    return (
        f'<details class="{finding.severity}"{is_open}><summary>{mark(finding.severity)} <b>{escaped(title)}</b><br>'
        f'{message(finding.message)}</summary><div class="inside">{"".join(inside)}</div></details>'
    )


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(f"<code>{escaped(printable(name))}</code>" for name in names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES:,} more"


def _quiet_rules(report: Report, policy: Policy | None, settings: InspectionSettings | None) -> Iterator[str]:
    """Rules that found nothing, and those that could not be applied, with the reason."""
    if policy is None:
        return
    assessment = assess(report, policy=policy, settings=settings)
    if assessment.passed:
        items = "".join(
            f'<li><code>{rule}</code> <span class="quiet">{escaped(_RULES[rule].what)}</span></li>'
            for rule in assessment.passed
        )
        yield _closed(f"{len(assessment.passed)} of {len(RULES)} rules found nothing", items)
    silent = [*assessment.not_judged.items(), *((rule, "switched off") for rule in assessment.switched_off)]
    if silent:
        items = "".join(
            f'<li><code>{rule}</code> <span class="quiet">{escaped(why)}</span></li>' for rule, why in silent
        )
        yield _closed(f"{len(silent)} of {len(RULES)} rules were not judged", items)


def _closed(summary: str, items: str) -> str:
    return f'<details><summary>{summary}</summary><div class="inside"><ul>{items}</ul></div></details>'


def _chart(layers: Sequence[LayerMeasurement], policy: Policy | None, table_id: str | None) -> str:
    guides = []
    for rule in (_RULES["vanishing_signal"], _RULES["exploding_signal"]) if policy is not None else ():
        levels = rule.limits(policy.rules.get(rule.id)).levels if policy is not None else {}
        guides += [(level, word) for word in LEVELS if isinstance(level := levels.get(word), float)]
    drawn = signal_profile(layers, guides=guides, described_by=table_id)
    return (
        f'<div class="chart">{drawn}</div><p class="quiet">Backward: the gradient of the loss by each layer call\'s '
        "output, relative to the last one. Forward: the size of each output, relative to the first one. Log scale; red "
        "ticks are zero or not finite.</p>"
    )


def _layers(report: Report, most: int, table_id: str | None) -> Iterator[str]:
    lines = layer_lines(report, most=most)
    left_out = sum(line.count for line in lines if isinstance(line, Gap))
    total = len(report.layers)
    yield "<h2>Layer calls</h2>" if not left_out else f"<h2>{total - left_out:,} of {total:,} layer calls</h2>"
    head = ("", "#Depth", "Layer", "Kind", "Output", "#Signal rms", "#Backward gain", "#Cumulative", "#of activation",
            "#of weights", "#Gradient norm", "#Forward gain", "Notes")  # fmt: skip
    yield table(head, (_layer(line, len(head)) for line in lines), table_id)


def _layer(line: LayerLine | Gap, columns: int) -> str:
    if isinstance(line, Gap):
        return f'<tr><td></td><td colspan="{columns - 1}" class="quiet">… {line.count:,} left out</td></tr>'
    row = line.layer
    call = f' <span class="quiet">call {row.call}</span>' if row.call else ""
    follows = f' <span class="quiet">→ {escaped(printable(row.nonlinearity))}</span>' if row.nonlinearity else ""
    values = (
        row.signal.rms if row.signal is not None else None, row.backward_gain, row.cumulative_backward_gain,
        row.activation_gain, row.weight_gain, line.grad_norm, row.forward_gain,
    )  # fmt: skip
    cells = [
        f"<td>{mark(line.flag) if line.flag is not None else ''}</td>",
        f'<td class="number">{row.depth}</td>',
        f'<th scope="row"><code>{escaped(printable(row.name))}</code>{call}</th>',
        f'<td class="fixed">{escaped(printable(row.kind))}{follows}</td>',
        f"<td>{shape(row.output_shape)}</td>",
        *(f'<td class="number">{"–" if value is None else number(value)}</td>' for value in values),
        f"<td>{', '.join(line.notes)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _scales(report: Report, scales: LrScales, table_id: str | None) -> Iterator[str]:
    base = base_rate_words(scales)
    yield f"<p><b>{escaped(answer(scales))}</b>{f' Suggested {base}.' if base else ''}</p>"
    if scales.groups:
        yield f'<div class="chart">{scale_bars(scales.groups, described_by=table_id)}</div><p></p>'
        rows = (
            f'<tr><th scope="row"><code>{escaped(printable(group.layer))}</code></th><td class="number">'
            f'{"–" if group.scale is None else f"× {number(group.scale)}"}</td><td class="number">'
            f"{'–' if group.cv is None else number(group.cv)}</td><td>{group_note(group)}</td></tr>"
            for group in scales.groups
        )
        yield table(("Layer", "#Scale", "#Variation over the batch", ""), rows, table_id)
    candidates = [
        f'<tr><th scope="row">{escaped(method)}</th><td class="number">{spread}</td><td class="number">{ratio}</td>'
        f"<td>{escaped(seeds)}</td></tr>"
        for method, spread, ratio, seeds in candidate_rows(scales)
    ]
    if candidates:
        yield "<p></p>"
        yield table(("Method", "#Spread, decades", "#Loss against uniform", "Per seed"), candidates)
    evidence = evidence_words(scales)
    if evidence:
        yield f'<p class="quiet">{escaped(evidence)}</p>'
    if scales.evidence is not None and scales.evidence.curves:
        yield f'<div class="chart">{paired_evidence(scales)}</div>'
    for name, outcome, source in remedy_rows(scales):
        yield f"<p>Probed instead: <b>{escaped(name)}</b> {escaped(outcome)}</p>"
        if source is not None:
            yield code(source)
    if scales.verdict == "use":
        yield code(scales.code or optimizer_code(scales, optimizer=report.optimizer))
