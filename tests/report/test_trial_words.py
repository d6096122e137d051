"""A learning trial as it is shown: the answer, the runs with their curves, and what it outvoted."""

from __future__ import annotations

import pytest

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.trial import Trial, TrialArm, TrialCheck
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.charts.trial_chart import trial_curves
from gradinspect.report.shown import Report as ShownReport
from gradinspect.report.text.markdown import render_markdown
from gradinspect.report.text.terminal import render_terminal
from gradinspect.report.text.text_charts import curve
from gradinspect.report.words.trial_words import OUTVOTED_TITLE, check_words, remaining, split_outvoted, trial_answer
from gradinspect.rules import DEFAULT_POLICY, judge
from gradinspect.testing.measurements import MODEL, chain

ARMS = (
    TrialArm(optimizer="sgd", momentum=0.9, lr=0.01, declared=True, outcome="learns", skill=0.6, steps=3,
             curve=(2.5, 2.0, 0.8)),
    TrialArm(optimizer="adam", lr=10.0, outcome="diverges", skill=None, steps=2, curve=(2.5, None)),
)  # fmt: skip
CHECKS = (
    TrialCheck(name="forward", passed=True),
    TrialCheck(name="weights_moved", passed=False, detail="3 of 8 parameters"),
)
TRIAL = Trial(verdict="learns", chance_loss=2.0, floor_loss=0.0, initial_loss=2.5, arms=ARMS, checks=CHECKS)


def report() -> Report:
    measured = chain((0.01,) * 5, trial=TRIAL)
    return judge(measured, policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=InspectionSettings())


def test_losses_are_shown_as_what_is_left_to_learn() -> None:
    assert remaining(TRIAL, ARMS[0]) == (1.25, 1.0, 0.4)
    assert remaining(TRIAL, ARMS[1]) == (1.25, None)
    without_floor = TRIAL.model_copy(update={"floor_loss": None, "chance_loss": -2.0})
    assert remaining(without_floor, ARMS[0].model_copy(update={"curve": (-2.0, -4.0)})) == (1.0, 0.0)


def test_a_curve_of_blocks_is_full_at_chance_and_marks_what_is_not_finite() -> None:
    assert curve((2.0, 1.0, 0.5, 0.0, None), most=10) == "██▅▁×"
    assert len(curve([0.5] * 300, most=24)) == 24


def test_the_answer_has_the_scale_of_the_loss() -> None:
    assert trial_answer(TRIAL) == (
        "The model learns its batch. The best constant output has a loss of 2, the smallest possible loss is 0."
    )
    assert check_words(TRIAL) == "forward pass ✓, every layer moved ✗ (3 of 8 parameters)"


def test_every_form_shows_the_runs_and_the_rules_that_were_outvoted() -> None:
    judged = report()
    standing, outvoted = split_outvoted(judged)
    assert standing == ()
    assert [outcome.rule for _, outcome in outvoted] == [finding.rule for finding in judged.findings]
    for text in (render_terminal(judged), render_markdown(judged)):
        assert OUTVOTED_TITLE in text
        assert "SGD with momentum 0.9 at 0.01 (declared)" in text
        assert "fail by itself" in text
    page = ShownReport.of(judged)._repr_html_()
    for words in (OUTVOTED_TITLE, "SGD with momentum 0.9 at 0.01 (declared)", "trial-curves", "fail by itself"):
        assert words in page


def test_a_finding_that_stands_is_not_listed_as_outvoted() -> None:
    failing = TRIAL.model_copy(update={"verdict": "does_not_learn", "arms": ARMS[1:]})
    judged = judge(
        chain((0.01,) * 5, trial=failing), policy=DEFAULT_POLICY, model=MODEL, inspection=None,
        settings=InspectionSettings(),
    )  # fmt: skip
    assert split_outvoted(judged)[1] == ()
    assert OUTVOTED_TITLE not in render_terminal(judged)


@pytest.mark.parametrize("chance", [2.0, None, 0.0])
def test_the_chart_is_drawn_with_any_scale(chance: float | None) -> None:
    svg = trial_curves(TRIAL.model_copy(update={"chance_loss": chance}), described_by="table")
    assert svg.startswith("<svg")
    assert 'aria-describedby="table"' in svg
    assert ("training step" in svg) == (chance != 0.0)
