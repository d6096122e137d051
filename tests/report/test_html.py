"""The report as HTML: well-formed, nothing fetched, nothing run, complete."""

import re
from collections.abc import Callable
from html import unescape

import pytest

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.trial import SWITCHED_OFF, Trial
from gradinspect.contracts.request.policy import Policy, RulePolicy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.html.render import notebook_html, render_html
from gradinspect.report.words.figures import printable
from gradinspect.report.words.headline import headline
from gradinspect.rules import RULES
from gradinspect.testing.measurements import chain
from tests.support.html_outline import HtmlOutline
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


@pytest.mark.parametrize("form", [render_html, notebook_html])
@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_tags_are_balanced_and_nothing_is_run_or_fetched(
    make: Callable[[], Report], form: Callable[[Report], str]
) -> None:
    page = HtmlOutline(form(make()))
    assert page.open == []
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "form", "base"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert tag != "a" or (attributes["href"] or "").startswith("#")
    style = "".join(re.findall(r"<style>(.*?)</style>", form(make()), re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_the_verdict_and_the_sentence_are_there(make: Callable[[], Report]) -> None:
    report = make()
    page = HtmlOutline(render_html(report))
    assert ("html", {"lang": "en", "class": "gradinspect"}) in page.elements
    assert report.verdict in page.text
    plain = " ".join(printable(headline(report)).replace("`", " ").split())
    squeezed = "".join(page.text.split()).replace("`", "")
    assert "".join(plain.split()) in squeezed


def test_every_name_is_escaped_and_all_are_there() -> None:
    text = render_html(strange())
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    rows = re.findall(r'<th scope="row"[^>]*><code>(.*?)</code>', text)
    assert [unescape(row) for row in rows[: len(STRANGE)]] == [printable(name) for name in STRANGE]


@pytest.mark.parametrize("form", [render_html, notebook_html])
def test_ids_are_unique_and_every_reference_has_its_target(form: Callable[[Report], str]) -> None:
    page = HtmlOutline(form(full()))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert name not in attributes or attributes[name] in ids
        if "href" in attributes:
            assert (attributes["href"] or "").removeprefix("#") in ids


def test_two_reports_in_a_notebook_share_no_id() -> None:
    first, second = (
        {attributes["id"] for _, attributes in HtmlOutline(notebook_html(report)).elements if "id" in attributes}
        for report in (sick(), full())
    )
    assert first
    assert not first & second


def test_the_chart_points_to_the_table_with_its_numbers() -> None:
    page = HtmlOutline(render_html(sick()))
    charts = [attributes for tag, attributes in page.elements if tag == "svg" and attributes.get("role") == "img"]
    assert [chart["aria-describedby"] for chart in charts if "aria-describedby" in chart] == ["layers-table"]
    assert ("table", {"id": "layers-table"}) in page.elements


def test_scales_and_their_evidence_are_drawn() -> None:
    page = HtmlOutline(render_html(full()))
    drawn = {
        attributes["class"]: attributes for tag, attributes in page.elements if tag == "svg" and "class" in attributes
    }
    assert drawn["scale-bars"]["aria-describedby"] == "scales-table"
    assert ("table", {"id": "scales-table"}) in page.elements
    assert "newton ends at" in (drawn["paired-evidence"]["aria-label"] or "")


def test_the_prescription_comes_first_with_its_curves_and_code() -> None:
    page = HtmlOutline(render_html(sick())).text
    assert page.index("Prescription") < page.index("Findings")
    assert "Training loss with the changes: it ends at 0.1, and at 2.3 without them." in render_html(sick())
    assert "setattr(model.get_submodule(parent), child, nn.ReLU())" in page


def test_failed_findings_are_open_and_say_what_to_change() -> None:
    page = HtmlOutline(render_html(sick()))
    cards = [attributes for tag, attributes in page.elements if tag == "details" and "class" in attributes]
    assert [("open" in card, card["class"]) for card in cards] == [(True, "finding fail"), (False, "finding warn")]
    assert "Replace sigmoid by relu" in page.text


def test_a_finding_shows_the_threshold_that_it_crossed_and_its_source() -> None:
    text = HtmlOutline(render_html(judged(chain((0.1,) * 5)))).text
    assert "warn below 0.001" in text
    assert "Threshold: chosen: beyond the three decades" in text


def test_a_finding_that_the_trial_made_milder_shows_the_threshold_that_it_crossed() -> None:
    untried = Trial(status="undetermined", reason=SWITCHED_OFF)
    text = HtmlOutline(render_html(judged(chain((0.01,) * 5).model_copy(update={"trial": untried})))).text
    assert "fail below 1e-6" in text
    assert "warn below" not in text


def test_a_threshold_of_a_policy_is_shown_without_the_source_of_the_default() -> None:
    policy = Policy(name="mine", version=3, rules={"vanishing_signal": RulePolicy(warn=0.01)})
    text = HtmlOutline(render_html(judged(chain((0.3,) * 5), policy=policy))).text
    assert "warn below 0.01" in text
    assert "Threshold:" not in text
    assert "mine, version 3" in text


def test_the_chart_shows_the_thresholds_that_the_report_was_judged_by() -> None:
    assert ">warn<" in render_html(judged(chain((0.1,) * 5)))
    off = Policy(name="mine", rules={"vanishing_signal": RulePolicy(enabled=False)})
    assert ">warn<" not in render_html(judged(chain((0.1,) * 5), policy=off))


def test_every_rule_is_a_finding_or_passed_or_was_not_judged() -> None:
    report = sick()
    page = HtmlOutline(render_html(report))
    passed, silent = (int(n) for n in re.findall(r"(\d+) rules (?:passed|not judged)", page.text))
    assert len(report.findings) + passed + silent == len(RULES)


def test_a_rule_that_the_policy_switched_off_is_listed_with_the_reason() -> None:
    policy = Policy(name="own", rules={"sharpness": RulePolicy(enabled=False)})
    assert "sharpness: the policy switches it off" in HtmlOutline(render_html(judged(chain(), policy=policy))).text


def test_a_report_without_recorded_outcomes_claims_nothing_about_rules() -> None:
    old = sick().model_copy(update={"rules": (), "schema_version": 1})
    text = HtmlOutline(render_html(old)).text
    assert "passed" not in text
    assert "Vanishing signal" in text  # in place of the title
    assert "Replace sigmoid by relu" in text


def test_a_huge_network_fits_a_page_and_a_notebook() -> None:
    report = huge()
    assert len(render_html(report)) < 2_000_000
    notebook = notebook_html(report)
    assert len(notebook) < 200_000
    rows = notebook.count('<th scope="row"')
    left_out = sum(int(n.replace(",", "")) for n in re.findall(r"… ([\d,]+) left out", notebook))
    assert rows + left_out == len(report.layers)


def test_every_section_is_there() -> None:
    text = HtmlOutline(render_html(full())).text
    for words in ("Gradient noise", "317", "Curvature", "12.5", "Input-output Jacobian", "Learning-rate scales", "× 32",
                  "0.4, 0.5, 0.46", "Effect of low precision", "36 %", "Gradients over training steps",
                  "balance identity failed"):  # fmt: skip
        assert words in text
    assert "Tried instead" in HtmlOutline(render_html(nothing_learns())).text
    assert "the loss is not twice differentiable" in HtmlOutline(render_html(undetermined())).text


def test_a_diagnostic_that_was_not_requested_is_listed() -> None:
    assert (
        "not requested (diagnostic curvature)"
        in HtmlOutline(render_html(healthy(), settings=InspectionSettings())).text
    )


def test_what_was_requested_is_shown_where_it_is_known() -> None:
    settings = InspectionSettings(seed=3, seeds=4)
    assert "4, from 3" in HtmlOutline(render_html(healthy(), settings=settings)).text
    assert "4, from 3" not in HtmlOutline(render_html(healthy())).text


def test_the_styles_of_a_notebook_neither_leak_in_nor_out_and_follow_its_theme() -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", notebook_html(healthy()), re.DOTALL)
    style = re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL)
    depth, selector, outer = 0, "", []
    for letter in style:
        if letter == "{":
            outer += [selector.strip()] if not depth else []
            depth, selector = depth + 1, ""
        elif letter == "}":
            depth, selector = depth - 1, ""
        else:
            selector += letter
    assert depth == 0
    for part in ",".join(outer).split(","):
        # An id's specificity wins over every class of the notebook; `html` exists only in a file.
        assert ".gradinspect:not(#_)" in part or part.strip() == ":where(html.gradinspect)", part
    assert style.index("all: revert") < style.index("--ground:")
    assert '[data-jp-theme-light="false"] .gradinspect' in style
    assert "prefers-color-scheme" not in style
