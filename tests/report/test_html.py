"""The page that stands alone: well-formed, nothing fetched, nothing run, everything said."""

import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser

import pytest

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.policy import Policy, RulePolicy
from gradinspect.report.html.html import notebook_html, render_html
from gradinspect.report.words.figures import printable
from gradinspect.report.words.headline import headline
from gradinspect.rules import DEFAULT_POLICY, RULES
from gradinspect.testing.measurements import chain
from tests.support.sample_reports import (
    ALL,
    STRANGE,
    full,
    healthy,
    huge,
    judged,
    nothing_learns,
    sick,
    strange,
    undetermined,
)

VOID = {"meta", "br", "link", "input", "img", "hr"}


class Page(HTMLParser):
    """Holds a page's elements, its text, and the balance of its tags."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("form", [render_html, notebook_html])
@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_tags_are_balanced_and_nothing_is_run_or_fetched(
    make: Callable[[], Report], form: Callable[[Report], str]
) -> None:
    page = Page(form(make()))
    assert page.open == []
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "form", "base"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "src")]
    style = "".join(re.findall(r"<style>(.*?)</style>", form(make()), re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_the_verdict_and_the_sentence_are_there(make: Callable[[], Report]) -> None:
    report = make()
    page = Page(render_html(report))
    assert ("main", {"class": "gradinspect"}) in page.elements
    assert report.verdict in page.text
    plain = " ".join(printable(headline(report)).replace("`", " ").split())
    squeezed = "".join(page.text.split()).replace("`", "")
    assert "".join(plain.split()) in squeezed


def test_every_name_is_escaped_and_all_are_there() -> None:
    text = render_html(strange())
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    rows = re.findall(r'<th scope="row"><code>(.*?)</code>', text)
    assert [unescape(row) for row in rows[: len(STRANGE)]] == [printable(name) for name in STRANGE]


def test_ids_are_given_once() -> None:
    page = Page(render_html(full()))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_chart_points_to_the_table_that_says_the_same() -> None:
    page = Page(render_html(sick()))
    drawn = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert drawn
    assert drawn[0]["role"] == "img"
    assert drawn[0]["aria-describedby"] == "layers-table"
    assert ("table", {"id": "layers-table"}) in page.elements


def test_scales_and_their_evidence_are_drawn() -> None:
    page = Page(render_html(full()))
    drawn = {attributes["class"]: attributes for tag, attributes in page.elements if tag == "svg"}
    assert drawn["scale-bars"]["aria-describedby"] == "scales-table"
    assert ("table", {"id": "scales-table"}) in page.elements
    assert "newton ends at" in (drawn["paired-evidence"]["aria-label"] or "")


def test_failed_findings_are_open_and_say_what_to_change() -> None:
    page = Page(render_html(sick()))
    cards = [attributes for tag, attributes in page.elements if tag == "details" and "class" in attributes]
    assert [("open" in card, card["class"]) for card in cards] == [(True, "fail"), (False, "warn")]
    assert "Replace sigmoid by relu" in page.text
    assert "torch.nn.ReLU()" in page.text


def test_every_rule_is_a_finding_or_found_nothing_or_was_not_judged() -> None:
    report = sick()
    page = Page(render_html(report))
    passed, silent = (int(n) for n in re.findall(r"(\d+) of \d+ rules (?:found nothing|were not judged)", page.text))
    assert len(report.findings) + passed + silent == len(RULES)


def test_what_found_nothing_is_not_claimed_under_a_policy_that_is_not_known() -> None:
    policy = Policy(name="own", rules={"sharpness": RulePolicy(enabled=False)})
    report = judged(chain()).model_copy(
        update={"policy": judged(chain()).policy.model_copy(update={"name": "own"})}  # type: ignore[union-attr]  # judged
    )
    assert "found nothing" not in Page(render_html(report)).text
    assert "switched off" in Page(render_html(report, policy=policy)).text
    assert "switched off" not in Page(render_html(report, policy=DEFAULT_POLICY)).text


def test_a_huge_network_fits_a_page_and_a_notebook() -> None:
    report = huge()
    assert len(render_html(report)) < 2_000_000
    notebook = notebook_html(report)
    assert len(notebook) < 200_000
    rows = notebook.count('<th scope="row">')
    left_out = sum(int(n.replace(",", "")) for n in re.findall(r"… ([\d,]+) left out", notebook))
    assert rows + left_out == len(report.layers)


def test_every_section_is_there() -> None:
    text = Page(render_html(full())).text
    for words in ("Gradient noise", "317", "Curvature", "12.5", "Input-output Jacobian", "Learning-rate scales", "× 32",
                  "0.4, 0.5, 0.46", "What low precision would do", "36 %", "Gradients over training steps",
                  "balance identity failed"):  # fmt: skip
        assert words in text
    assert "Probed instead" in Page(render_html(nothing_learns())).text
    assert "the loss is not twice differentiable" in Page(render_html(undetermined())).text


def test_a_notebook_s_cell_keeps_its_styles_to_itself() -> None:
    text = notebook_html(healthy())
    assert text.startswith('<div class="gradinspect">')
    style = re.sub(r"/\*.*?\*/", "", "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL)), flags=re.DOTALL)
    selectors = re.findall(r"(?:^|[{}])\s*([^{}@]+?)\s*\{", re.sub(r"@media[^{]*", "@media", style))
    assert selectors
    for selector in selectors:
        assert all("gradinspect" in part for part in selector.split(",")), selector
