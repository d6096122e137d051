"""The markdown form, read back by a markdown parser: what it says, and that no name becomes markup."""

from collections.abc import Callable, Iterator

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from gradinspect.contracts.report.report import Report
from gradinspect.report.text.markdown import render_markdown
from gradinspect.report.words.figures import printable
from tests.support.sample_reports import (
    ALL,
    PRESCRIPTION,
    STRANGE,
    full,
    huge,
    nothing_learns,
    sick,
    strange,
    undetermined,
)


def tokens(text: str) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or ()


def cells(text: str) -> list[list[str]]:
    """Return the rows of all tables."""
    rows: list[list[str]] = []
    is_cell = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "tr_open":
            rows.append([])
        is_cell = token.type in ("td_open", "th_open") or (is_cell and token.type == "inline")
        if is_cell and token.type == "inline":
            rows[-1].append("".join(child.content for child in token.children or ()))
    return rows


def layer_rows(text: str) -> list[dict[str, str]]:
    """Return the rows of the table of layers, by title."""
    rows = cells(text)
    head = next(row for row in rows if row[1] == "depth")
    return [dict(zip(head, row, strict=True)) for row in rows[rows.index(head) + 1 :] if len(row) == len(head)]


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_nothing_is_a_link_an_image_or_html_but_our_own(make: Callable[[], Report]) -> None:
    found = list(tokens(render_markdown(make())))
    assert not [token for token in found if token.type in ("link_open", "image")]
    html = {token.content.strip() for token in found if token.type in ("html_inline", "html_block")}
    assert html <= {"<br>", "<details><summary>How it was measured</summary>", "</details>"}


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_no_letter_steers_a_terminal_or_a_line(make: Callable[[], Report]) -> None:
    text = render_markdown(make()).replace("\N{VARIATION SELECTOR-16}", "")
    assert all(letter == "\n" or letter.isprintable() for letter in text)


def test_names_come_back_as_they_are() -> None:
    names = [row["layer"] for row in layer_rows(render_markdown(strange()))]
    # A parser of tables takes \| for |, inside code too.
    assert names == [printable(name) for name in STRANGE]


def test_the_table_has_a_row_a_layer() -> None:
    rows = layer_rows(render_markdown(sick()))
    assert [row["depth"] for row in rows] == [str(depth) for depth in range(11)]
    assert rows[0]["kind"] == "Linear → sigmoid"
    assert rows[0]["backward gain"] == "0.25"
    assert rows[3]["notes"] == "40 % saturated"


def test_a_long_network_counts_what_it_leaves_out() -> None:
    report = huge()
    rows = layer_rows(render_markdown(report))
    left_out = sum(int(row["layer"].removesuffix(" left out").replace(",", "")) for row in rows if row["depth"] == "⋮")
    assert left_out + sum(row["depth"] != "⋮" for row in rows) == len(report.layers)


def test_the_prescription_is_a_list_and_a_fence() -> None:
    text = render_markdown(sick())
    fences = [token.content for token in tokens(text) if token.type == "fence"]
    assert fences == [PRESCRIPTION.code]
    assert text.index("### Prescription") < text.index("### Findings")


def test_scales_their_evidence_and_their_code_are_there() -> None:
    text = render_markdown(full())
    assert "Use these scales" in text
    assert "base learning rate 0.03" in text
    assert ["newton", "3.01", "0.45", "0.4, 0.5, 0.46"] in cells(text)
    fences = [token.content for token in tokens(text) if token.type == "fence"]
    assert any("torch.optim.SGD(" in fence for fence in fences)


def test_remedies_and_what_is_missing_are_there() -> None:
    text = render_markdown(nothing_learns())
    assert "Tried instead: **rescaled weights** learned" in text
    assert "never_shown" not in text
    assert "- Curvature: the loss is not twice differentiable" in render_markdown(undetermined())
