"""One run: torch's own steps, early ends, and a model that is left as it was."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.optimizers import Adam, Optimizer, Sgd
from gradinspect.engine.network.batch import Target
from gradinspect.engine.network.reproducible import left_as_found
from gradinspect.probes.trial.arm import ArmResult, restored, train_arm
from gradinspect.probes.trial.task import Inputs, Task
from gradinspect.probes.verify.budget import ProbeBudget
from tests.support.networks.probed import classes, mlp, normal, scripted, section_input

ADAM = Adam(type="adam", lr=1e-2)
SGD = Sgd(type="sgd", lr=0.1, momentum=0.9)


def net() -> nn.Sequential:
    return mlp(8, 64, 64, 4, dtype=torch.float32)


def data() -> torch.Tensor:
    return normal(64, 8, dtype=torch.float32)


def budget(steps: int = 10_000, seconds: float = 60.0) -> ProbeBudget:
    return ProbeBudget(max_steps=steps, max_seconds=seconds)


def task_of(model: nn.Module, **settings: Any) -> Task:
    return Task.of(section_input(model, data(), classes(4, 64), **settings))


def train(model: nn.Module, optimizer: Optimizer | torch.optim.Optimizer = ADAM, **options: Any) -> ArmResult:
    return train_arm(model, optimizer, task_of(model), options.pop("budget", budget()), **options)


def test_a_healthy_network_learns_in_few_steps() -> None:
    result = train(net())
    assert result.outcome == "learns"
    assert len(result.losses) < 60
    assert result.skill is not None
    assert result.skill >= 0.5


def test_a_network_whose_first_layer_is_dead_does_not_learn() -> None:
    model = net()
    with torch.no_grad():
        next(m for m in model.modules() if isinstance(m, nn.Linear)).bias.fill_(-100.0)
    result = train(model)
    assert (result.outcome, result.ended) == ("does_not_learn", "plateau")
    assert not result.is_falling


def test_a_rate_that_is_far_too_large_diverges() -> None:
    assert train(net(), Sgd(type="sgd", lr=1e6)).outcome == "diverges"


def test_the_budget_ends_a_run_to_the_step() -> None:
    spent = budget(steps=7)
    result = train(net(), Sgd(type="sgd", lr=1e-4), budget=spent)
    assert (len(result.losses), spent.steps_run, result.ended) == (7, 7, "budget")
    assert result.outcome == "undetermined"


def test_the_clock_is_read_before_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    task, spent = task_of(model), budget(seconds=1.0)
    ticks = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: spent._started + 0.3 * next(ticks))
    assert len(train_arm(model, Sgd(type="sgd", lr=1e-4), task, spent).losses) == 4


def test_a_model_is_put_back_bit_for_bit() -> None:
    first = nn.Linear(8, 16)
    model = nn.Sequential(first, nn.BatchNorm1d(16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 4)).eval()
    first.weight.grad = torch.ones(16, 8)
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    task = task_of(model)
    with left_as_found(model, "train"), restored(model):
        train_arm(model, ADAM, task, budget())
        assert not torch.equal(first.weight, before["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not model.training
    assert torch.equal(first.weight.grad, torch.ones(16, 8))


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_an_optimizer_of_torch_trains_as_its_document_does(kind: str) -> None:
    model = net()
    twin = copy.deepcopy(model)
    theirs: torch.optim.Optimizer = (
        torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
        if kind == "sgd"
        else torch.optim.Adam(twin.parameters(), lr=1e-2)
    )
    ours = train(model, SGD if kind == "sgd" else ADAM)
    result = train_arm(twin, theirs, task_of(twin), budget())
    assert result.losses == pytest.approx(ours.losses, rel=1e-5)
    assert all(parameter.grad is None for parameter in twin.parameters())


def test_a_script_trains_as_the_module_does() -> None:
    model = net()
    assert train(scripted(copy.deepcopy(model))).losses == pytest.approx(train(model).losses, rel=1e-5)


def test_a_changed_copy_trains_on_the_same_task() -> None:
    model = net()
    task = task_of(model)
    changed = nn.Sequential(copy.deepcopy(model), nn.Identity())
    assert train_arm(changed, ADAM, task, budget()).losses == train_arm(model, ADAM, task, budget()).losses


def test_prepare_changes_the_batch_and_the_scale_of_the_loss() -> None:
    def divide(inputs: Inputs, target: Target) -> tuple[Inputs, Target]:
        return tuple(x / 1000 for x in inputs), target / 50

    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    s = section_input(model, 1000 * data(), 50 * normal(64, 1, seed=1, dtype=torch.float32), loss="mse")
    task = Task.of(s)
    prepared = task.prepared(divide)
    assert prepared.chance_loss == pytest.approx((task.chance_loss or 0.0) / 2500)
    losses = train_arm(model, ADAM, task, budget(), prepare=divide).losses
    assert losses[0] < 10


def test_drawn_targets_can_be_learned_from_the_inputs() -> None:
    s = section_input(net(), data(), classes(4, 64), synthetic=True)
    assert s.batch.synthetic
    task = Task.of(s)
    assert not torch.equal(task.target, s.target)
