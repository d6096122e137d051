"""Pieces of HTML that a report is made of; whatever comes from a report is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradinspect.report.charts.plotting import escaped
from gradinspect.report.words.figures import printable
from gradinspect.report.words.sections import Fact

SIGNS = {"pass": "✔", "warn": "▲", "fail": "✖", "undetermined": "?", "info": "ℹ"}


def mark(word: str) -> str:
    """A verdict or severity: sign, word and colour together."""
    return f'<span class="mark {word}">{SIGNS[word]} {word}</span>'


def inline(facts: Sequence[Fact]) -> str:
    """Facts in a line, under the headline."""
    return f'<ul class="facts">{"".join(f"<li>{label} <b>{escaped(value)}</b></li>" for label, value in facts)}</ul>'


def facts(rows: Iterable[Fact]) -> str:
    """Facts below each other."""
    return f"<dl>{''.join(f'<dt>{escaped(label)}</dt><dd>{escaped(value)}</dd>' for label, value in rows)}</dl>"


def table(head: Sequence[str], rows: Iterable[str], table_id: str | None = None) -> str:
    """A table that scrolls inside its box; titles that begin with # stand over numbers."""
    titles = "".join(
        f'<th scope="col" class="number">{title[1:]}</th>' if title.startswith("#") else f'<th scope="col">{title}</th>'
        for title in head
    )
    marked = f' id="{table_id}"' if table_id is not None else ""
    table = f"<table{marked}><thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def code(source: str) -> str:
    """Source, as it is."""
    return f'<pre tabindex="0">{escaped(source)}</pre>'


def message(sentence: str) -> str:
    """A rule's sentence with the names between backticks as code."""
    parts = printable(sentence).split("`")
    if len(parts) % 2 == 0:  # a name holds a backtick itself
        return escaped(printable(sentence))
    return "".join(f"<code>{escaped(part)}</code>" if index % 2 else escaped(part) for index, part in enumerate(parts))
