"""The terminal form: complete at any width, with any names."""

import ast
import re
from collections.abc import Callable
from textwrap import dedent

import pytest
from rich.cells import cell_len

from gradinspect.contracts.report.optimizer_code import optimizer_code
from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.trial import Prescription, PrescriptionOutcome
from gradinspect.report.text.source_lines import fitted
from gradinspect.report.text.terminal import CODE_INDENT, render_terminal
from gradinspect.report.words.headline import headline
from gradinspect.rules import RULES
from tests.support.sample_reports import (
    ALL,
    PRESCRIPTION,
    empty,
    full,
    healthy,
    huge,
    nothing_learns,
    sick,
    strange,
    undetermined,
)

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def unwrapped(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_no_line_but_unbreakable_code_is_wider_than_the_terminal(make: Callable[[], Report], width: int) -> None:
    report = make()
    codes = [report.prescription.code or ""] if report.prescription is not None else []
    if report.lr_scales is not None:
        codes.append(optimizer_code(report.lr_scales))
    code = {line.strip() for text in codes for line in fitted(text, width - CODE_INDENT)}
    lines = render_terminal(report, width=width).splitlines()
    too_wide = [line for line in lines if cell_len(line) > width and line.strip() not in code]
    assert too_wide == []


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_the_verdict_and_the_sentence_come_first(make: Callable[[], Report]) -> None:
    report = make()
    lines = [line for line in render_terminal(report, width=140).splitlines() if line.strip()]
    assert report.verdict.upper() in lines[0]
    if make is not strange:  # whose names are changed
        assert unwrapped(headline(report)).startswith(unwrapped(lines[1])[:60])


def test_every_finding_is_there_with_what_to_change() -> None:
    report = sick()
    text = unwrapped(render_terminal(report, width=100))
    titles = {rule.id: rule.title for rule in RULES}
    for finding in report.findings:
        assert titles[finding.rule] in text
        assert unwrapped(finding.message) in text
    assert "Change: Replace sigmoid by relu" in text


def test_the_sentence_at_the_top_is_not_said_twice() -> None:
    report = sick()
    assert unwrapped(render_terminal(report, width=100)).count(unwrapped(headline(report))) == 1


def test_the_prescription_comes_before_the_findings_and_its_code_can_be_copied() -> None:
    text = render_terminal(sick(), width=80)
    assert text.index("Prescription") < text.index("Findings")
    assert "With 2 changes this model learns: its skill is 0.97 after 3 steps" in unwrapped(text)
    assert "1. Replace every sigmoid by relu." in text
    assert PRESCRIPTION.code is not None
    printed = text[text.index("    import torch") : text.index(" Findings")]
    assert ast.dump(ast.parse(dedent(printed))) == ast.dump(ast.parse(PRESCRIPTION.code))
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_a_network_that_needs_no_prescription_is_shown_none() -> None:
    measured = healthy().model_copy(update={"prescription": Prescription(outcome="not_needed", reason="it learns")})
    assert "Prescription" not in render_terminal(measured)


@pytest.mark.parametrize(("outcome", "words"), [("not_found", "No prescription was found in 7 attempts: why."),
                                                ("not_tried", "No prescription was tried: why.")])  # fmt: skip
def test_a_prescription_that_was_not_found_says_why(outcome: PrescriptionOutcome, words: str) -> None:
    without = Prescription(outcome=outcome, reason="why", tried=7)
    assert words in render_terminal(sick().model_copy(update={"prescription": without}))


def test_the_table_shows_the_signal_falling() -> None:
    text = render_terminal(sick(), width=100)
    rows = [line for line in text.splitlines() if re.search(r" Linear → sigmoid ", line)]
    assert len(rows) == 10
    assert [row.split()[1] for row in rows[:3]] == ["0", "1", "2"]
    assert all(" 0.25 " in row for row in rows)
    bars = [row.count("█") for row in rows]
    assert bars == sorted(bars)
    assert bars[0] < bars[-1]


def test_the_gain_from_theory_is_next_to_the_measured_one() -> None:
    report = sick()
    assert "theory" not in render_terminal(report, width=140)
    known = tuple(layer.model_copy(update={"predicted_chi1": 0.0361}) for layer in report.layers)
    text = render_terminal(report.model_copy(update={"layers": known}), width=140)
    assert "mean-field theory" in text
    assert sum(" 0.19 " in line for line in text.splitlines()) == len(report.layers)  # √0.0361


def test_narrow_terminals_keep_names_and_gains_and_wide_ones_show_more() -> None:
    narrow, wide = (render_terminal(sick(), width=width) for width in (60, 140))
    for title in ("layer", "signal", "backward", "cumulative"):
        assert title in narrow
    for title in ("output", "activation", "weight", "gradient"):
        assert title in wide


def test_a_long_network_shows_its_ends_and_what_stands_out_and_counts_the_rest() -> None:
    report = huge()
    text = render_terminal(report, width=80)
    shown = {int(found) for found in re.findall(r"^ [✖!]? +(\d+)  \d", text, re.MULTILINE)}
    assert {0, 1, 700, 900, 1499, 1500} <= shown
    assert len(shown) <= 40
    left_out = sum(int(number.replace(",", "")) for number in re.findall(r"… ([\d,]+) left out", text))
    assert left_out + len(shown) == len(report.layers) == 1501


def test_all_layers_are_shown_when_asked() -> None:
    report = huge(60)
    assert "left out" not in render_terminal(report, width=100, most_layers=61)


def test_without_colour_there_is_no_escape_and_with_colour_the_words_are_the_same() -> None:
    plain, coloured = (render_terminal(full(), width=100, color=color) for color in (False, True))
    assert "\x1b" not in plain
    assert "\x1b[" in coloured
    without = "\n".join(line.rstrip() for line in ANSI.sub("", coloured).split("\n"))
    assert without == plain


@pytest.mark.parametrize("color", [False, True])
def test_no_name_of_a_layer_controls_the_terminal(color: bool) -> None:
    text = ANSI.sub("", render_terminal(strange(), width=140, color=color))
    assert all(letter == "\n" or letter.isprintable() for letter in text)
    assert "\u202e" not in text
    assert "red\N{REPLACEMENT CHARACTER}" in text
    assert "[bold]x[/bold]" in text
    assert "層.重み" in text


def test_every_section_shows_its_numbers() -> None:
    text = render_terminal(full(), width=100)
    for words in ("noise scale, in samples", "317", "largest eigenvalue", "7.25", "largest singular value", "36 %",
                  "691 … 122,252", "2.3 → 2.1 in 2 steps", "decades per step"):  # fmt: skip
        assert words in text
    assert "self-check: balance identity failed (0.5, allowed 1e-6): off" in text


def test_scales_show_what_to_do_and_the_evidence() -> None:
    text = render_terminal(full(), width=100)
    for words in ("Use these scales", "method newton", "base learning rate 0.03", "spread over 3.01 decades", "× 32",
                  "0.4, 0.5, 0.46", "This covers 100 steps of 3 paired seeds.", "fixed random teacher",
                  "optimizer = torch.optim.SGD("):  # fmt: skip
        assert words in text


def test_a_remedy_that_learned_is_shown_with_its_code_and_one_that_did_not_without() -> None:
    text = render_terminal(nothing_learns(), width=100)
    assert "Neither a learning rate nor scales" in text
    assert "Tried instead: rescaled weights learned: its loss ended at 0.07" in text
    assert "model.eval()" in text
    assert "adam did not learn" in text
    assert "never_shown" not in text


def test_a_section_that_was_not_measured_has_its_reason() -> None:
    text = render_terminal(undetermined(), width=100)
    assert "Not measured" in text
    assert "the loss is not twice differentiable" in text


def test_a_report_without_layers_is_still_one() -> None:
    text = render_terminal(empty(), width=80)
    assert "Layers" not in text
    assert "loss not finite" in text


def test_a_healthy_network_passes_without_alarm() -> None:
    text = render_terminal(healthy(), width=100)
    assert "✔ PASS" in text
    assert "No rule found a problem." in text
    assert "✖" not in text
