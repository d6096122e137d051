"""The trial of a model: its answer, in which order it asks, and why it does not ask."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.report.trial import Trial, TrialArm
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.reproducible import ordinary_graphs
from gradinspect.probes.trial.section import conclude, copies_bytes, trial_section
from tests.support.networks.probed import classes, mlp, normal, scripted, section_input

LONG = {"steps": 2000, "seconds": 600.0}


def net(**options: Any) -> nn.Sequential:
    return mlp(8, 32, 32, 4, activation=nn.ReLU, dtype=torch.float32, **options)


def prepared(model: nn.Module, **settings: Any) -> SectionInput:
    settings = {"trial": LONG, **settings}
    return section_input(model, normal(64, 8, dtype=torch.float32), classes(4, 64), **settings)


def tried(s: SectionInput) -> Trial:
    with ordinary_graphs():
        section = trial_section(s).section
    assert isinstance(section, Trial)
    return section


def rates(trial: Trial) -> list[tuple[str, float]]:
    return [(arm.optimizer, arm.lr) for arm in trial.arms]


def sigmoids(layers: int = 10) -> nn.Sequential:
    return mlp(8, *[16] * layers, 4, activation=nn.Sigmoid, dtype=torch.float32)


def test_a_declared_optimizer_that_learns_answers_the_question() -> None:
    trial = tried(prepared(net(), optimizer={"type": "adam", "lr": 0.01}))
    assert (trial.status, trial.verdict, rates(trial)) == ("measured", "learns", [("adam", 0.01)])
    assert trial.arms[0].declared
    assert trial.steps_run == trial.arms[0].steps <= 100
    assert all(check.passed for check in trial.checks)
    assert [check.name for check in trial.checks][:4] == ["forward", "loss_finite", "backward", "second_backward"]


def test_without_an_optimizer_sgd_and_adam_are_asked() -> None:
    trial = tried(prepared(net()))
    assert trial.verdict == "learns"
    assert {arm.optimizer for arm in trial.arms if arm.outcome == "learns"} == {"sgd", "adam"}
    assert rates(trial)[0] == ("sgd", 0.01)


def test_a_network_at_chance_does_not_learn() -> None:
    trial = tried(prepared(sigmoids()))
    assert trial.verdict == "does_not_learn"
    assert max(arm.skill or 0.0 for arm in trial.arms) < 0.1
    assert "0" in trial.unmoved_layers
    assert len(trial.arms) <= 6


def test_a_rate_that_is_too_small_is_answered_with_one_that_learns() -> None:
    trial = tried(prepared(net(), optimizer={"type": "sgd", "lr": 1e-7}))
    assert trial.verdict == "other_rate"
    assert trial.arms[0].outcome == "does_not_learn"
    assert trial.steps_at_declared_rate is not None
    assert trial.steps_at_declared_rate > 1e6
    assert all(lr > 1e-7 for _, lr in rates(trial)[1:])  # a smaller one moves nothing either


def test_a_rate_that_is_too_large_is_answered_with_one_that_learns() -> None:
    trial = tried(prepared(net(), optimizer={"type": "sgd", "lr": 1e5}))
    assert (trial.verdict, trial.arms[0].outcome) == ("other_rate", "diverges")
    assert trial.steps_at_declared_rate is None
    assert all(lr < 1e5 for _, lr in rates(trial)[1:])  # a larger one diverges, too


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_a_loss_in_another_unit_gets_the_same_answer(factor: float) -> None:
    def multiplied(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        assert target is not None
        return factor * nn.functional.cross_entropy(output, target)

    inputs, target = normal(64, 8, dtype=torch.float32), classes(4, 64)
    for model, verdict in ((net(), "learns"), (sigmoids(20), "does_not_learn")):
        s = section_input(model, inputs, target, custom_loss=multiplied, trial=LONG)
        assert tried(s).verdict == verdict


def test_a_module_and_its_script_get_the_same_answer() -> None:
    model = net()
    eager, script = tried(prepared(model)), tried(prepared(scripted(copy.deepcopy(model))))
    assert (eager.verdict, rates(eager)) == (script.verdict, rates(script))
    assert [arm.steps for arm in eager.arms] == [arm.steps for arm in script.arms]


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))
    before = copy.deepcopy(model.state_dict())
    tried(prepared(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_steps_are_never_exceeded() -> None:
    trial = tried(prepared(sigmoids(), trial={"steps": 90}))
    assert trial.steps_run <= 90
    assert (trial.verdict, trial.max_steps) == ("undetermined", 90)
    assert str(trial.reason) == "budget: it ended after 90 steps"


def test_what_the_declared_run_shows_is_said_even_if_the_budget_ends() -> None:
    trial = tried(prepared(sigmoids(), trial={"steps": 70}, optimizer={"type": "adam", "lr": 0.01}))
    assert trial.verdict == "does_not_learn"
    assert str(trial.reason).startswith("budget:")


def test_memory_is_counted_before_anything_is_copied() -> None:
    s = prepared(net())
    needed = copies_bytes(s)
    assert needed == 4 * 4 * sum(parameter.numel() for parameter in s.model.parameters())
    assert tried(replace(s, memory_left_bytes=needed)).status == "measured"
    short = tried(replace(s, memory_left_bytes=needed - 1))
    assert (short.status, short.arms) == ("undetermined", ())
    assert str(short.reason).startswith("memory: copies of the parameters")


@pytest.mark.parametrize("loss", ["output_mean", "random_cotangent"])
def test_a_loss_without_a_minimum_is_not_tried(loss: str) -> None:
    s = section_input(net(), normal(64, 8, dtype=torch.float32), None, loss=loss)
    assert str(tried(s).reason).startswith("no_target:")


def test_a_loss_that_is_not_finite_is_not_trained() -> None:
    model = net()
    with torch.no_grad():
        model[0].get_parameter("bias").fill_(float("nan"))
    assert str(tried(prepared(model)).reason).startswith("not_finite:")


def test_a_model_that_takes_too_long_is_not_begun() -> None:
    s = prepared(net())
    assert str(tried(replace(s, pass_seconds=60.0, budget=section_budget(30.0))).reason).startswith("budget: needs")


def section_budget(seconds: float) -> Any:
    from gradinspect.engine.first_order.context import Budget

    return Budget(seconds)


class Remembering(nn.Module):
    """Keeps its hidden state with the graph of the step before."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNNCell(8, 16), nn.Linear(16, 4)
        self.state: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state = self.cell(x, self.state)
        output: torch.Tensor = self.head(self.state)
        return output


def test_a_state_that_keeps_its_graph_fails_at_the_second_step() -> None:
    trial = tried(prepared(Remembering()))
    assert (trial.status, trial.verdict) == ("undetermined", "undetermined")
    failed = next(check for check in trial.checks if not check.passed)
    assert failed.name == "second_backward"
    assert failed.detail.startswith("step 2 of training fails: RuntimeError")


def arm(optimizer: str, lr: float, outcome: Any, **fields: Any) -> TrialArm:
    return TrialArm(optimizer=optimizer, lr=lr, outcome=outcome, **fields)


def test_a_run_that_still_falls_is_answered_by_a_faster_one_on_its_plateau() -> None:
    falling, plateau = arm("sgd", 0.001, "undetermined"), arm("sgd", 0.1, "does_not_learn")
    assert conclude([falling, plateau], [], is_cut=False) == "does_not_learn"
    assert conclude([falling, arm("sgd", 0.0001, "does_not_learn")], [], is_cut=False) == "undetermined"


def test_one_family_that_learns_is_another_optimizer_unless_the_other_is_on_its_way() -> None:
    learned = arm("adam", 1e-3, "learns")
    assert conclude([arm("sgd", 0.1, "diverges"), learned], [], is_cut=False) == "other_optimizer"
    assert conclude([arm("sgd", 0.1, "slow"), learned], [], is_cut=False) == "learns"
    assert conclude([arm("sgd", 0.1, "diverges"), learned], [], is_cut=True) == "learns"
