"""Training runs watched from inside: the numbers of an inspection, the optimizer's true step, and ends by rule."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradinspect import inspect
from gradinspect.contracts.document import from_json
from gradinspect.contracts.wire.pushes import ReportPush
from gradinspect.training import RunStopped, Watch, watch

Batch = tuple[torch.Tensor, torch.Tensor]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)
    )


def batches(count: int) -> list[Batch]:
    torch.manual_seed(2)
    return [(torch.randn(64, 8), torch.randint(4, (64,))) for _ in range(count)]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, clip: float = 1e9) -> None:
    optimizer.zero_grad()
    functional.cross_entropy(model(batch[0]), batch[1]).backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def test_a_watched_step_has_the_numbers_of_an_inspection_of_that_step() -> None:
    model = network()
    optimizer = sgd(model)
    with watch(model, every=3) as run:
        for index, batch in enumerate(batches(7)):
            before = copy.deepcopy(model)
            step(model, optimizer, batch)
            if index % 3:
                continue
            watched, inspected = run.report, inspect(before, *batch, optimizer={"type": "sgd", "lr": 0.1})
            assert watched is not None
            assert watched.layers == inspected.layers
            for name in ("depth_decay", "precision", "outputs"):
                assert getattr(watched, name) == getattr(inspected, name)
            for name in ("loss", "total_grad_norm", "nonfinite_count", "layers", "parameters"):
                assert getattr(watched.summary, name) == getattr(inspected.summary, name)
            for mine, theirs in zip(watched.parameters, inspected.parameters, strict=True):
                # Weights in float32 cannot take a step far under their last bit.
                assert mine.update_norm == pytest.approx(theirs.update_norm, rel=1e-4, abs=1e-8)
                same = {"update_norm": theirs.update_norm, "update_to_weight": theirs.update_to_weight}
                assert mine.model_copy(update=same) == theirs


def test_training_is_the_same_with_and_without_a_watch() -> None:
    plain, watched = network(), network()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    for batch in batches(6):
        step(plain, optimizer, batch, clip=0.1)
    optimizer = torch.optim.AdamW(watched.parameters(), lr=1e-2)
    with watch(watched, every=2):
        for batch in batches(6):
            step(watched, optimizer, batch, clip=0.1)
    for mine, theirs in zip(watched.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_step_of_the_optimizer_is_measured_as_it_is(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    file = tmp_path / "run.jsonl"
    with watch(model, every=4, file=file, name="net", labels={"team": "a"}) as run:
        for batch in batches(5):
            before = [parameter.detach().clone() for parameter in model.parameters()]
            step(model, optimizer, batch, clip=0.05)
    assert run.report is not None
    moves = [float((now.detach() - then).norm()) for now, then in zip(model.parameters(), before, strict=True)]
    assert [row.update_norm for row in run.report.parameters] == pytest.approx(moves, rel=1e-5)
    pushes = [from_json(ReportPush, line) for line in file.read_bytes().splitlines()]
    assert [push.step for push in pushes] == [0, 4]
    assert (pushes[0].name, pushes[0].labels, pushes[0].run) == ("net", {"team": "a"}, None)
    training = pushes[1].training
    assert training is not None
    assert training.learning_rates == (1e-2,)
    assert training.applied_grad_norm == pytest.approx(0.05, rel=1e-3)
    assert pushes[1].report.summary.total_grad_norm > 0.05  # type: ignore[operator]  # it is finite
    assert pushes[1].report.optimizer is not None


@pytest.mark.parametrize(
    ("make", "setting", "is_declared"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}, False),
        (torch.optim.SGD, {"momentum": 0.9, "maximize": True}, False),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, True),
        (torch.optim.Adam, {"amsgrad": True}, False),
        (torch.optim.Adam, {"betas": (0.8, 0.9)}, True),
        (torch.optim.SGD, {"lr": 0.0}, False),
        (torch.optim.Adam, {"eps": 0.0}, False),
    ],
)
def test_an_optimizer_is_declared_only_if_a_request_has_all_its_settings(
    make: Any, setting: dict[str, Any], is_declared: bool
) -> None:
    model = network()
    with watch(model) as run:
        step(model, make(model.parameters(), **{"lr": 0.1, **setting}), batches(1)[0])
    assert run.report is not None
    declared = run.report.optimizer
    assert (declared is not None) == is_declared
    if declared is not None:
        assert {name: getattr(declared, name) for name in setting} == setting


def test_scaled_and_accumulated_losses_are_divided_out() -> None:
    model, (x, y) = network().eval(), batches(1)[0]
    optimizer = sgd(model)
    with watch(model, loss_factor=lambda: 1024.0 / 2) as run:
        for half in (slice(0, 32), slice(32, 64)):
            (functional.cross_entropy(model(x[half]), y[half]) / 2 * 1024.0).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad /= 1024.0
        optimizer.step()
    alone = inspect(network(), x[:32], y[:32], mode="eval")
    assert run.report is not None
    assert run.report.summary.loss == pytest.approx(alone.summary.loss)
    assert run.report.summary.total_grad_norm == pytest.approx(alone.summary.total_grad_norm, rel=1e-5)


def test_a_run_that_explodes_is_stopped_and_names_the_finding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 1))
    optimizer = sgd(model, lr=10.0)
    done = 0
    with watch(model, every=5, stop_on=["non_finite"], file=tmp_path / "run.jsonl") as run:
        for x, _ in batches(100):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            done += 1
    assert done < 100
    assert run.stopped is not None
    assert run.stopped.finding.rule == "non_finite"
    assert run.stopped.step % 5 == 0
    assert str(run.stopped).startswith(f"stopped at step {run.stopped.step} by non_finite")


def test_another_watchs_stop_passes_through() -> None:
    model = network()
    finding = _stopped(network()).finding
    with pytest.raises(RunStopped), watch(model):
        raise RunStopped(3, finding)


def _stopped(model: nn.Module) -> RunStopped:
    with watch(model, stop_on="info") as run:
        step(model, sgd(model, lr=1e-12), batches(1)[0])
    assert run.stopped is not None
    return run.stopped


@pytest.mark.parametrize("stop_on", ["bad", ["nobody"]])
def test_a_wrong_reason_to_stop_is_refused_before_training(stop_on: Any) -> None:
    with pytest.raises(ValueError, match="stop_on"), watch(network(), stop_on=stop_on):
        pytest.fail("it began")


def test_every_counts_steps_from_one() -> None:
    with pytest.raises(ValueError, match="every is 0"), watch(network(), every=0):
        pytest.fail("it began")


def test_nothing_is_left_behind_after_the_block_or_an_error() -> None:
    backward = torch.Tensor.backward
    model = network()

    def train() -> None:
        with watch(model, every=1):
            step(model, sgd(model), batches(1)[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert torch.Tensor.backward is backward
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_a_watched_model_can_be_copied_and_pickled_and_the_copy_is_not_watched() -> None:
    model, batch = network(), batches(1)[0]
    with watch(model, every=1) as run:
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # our own bytes
            step(other, sgd(other), batch)
        assert (run.report, run.step) == (None, 0)
        step(model, sgd(model), batch)
        assert (run.report is not None, run.step) == (True, 1)


def test_evaluation_and_other_networks_inside_the_loop_are_not_measured() -> None:
    model, judge = network(), network()
    optimizer, other = sgd(model), sgd(judge)
    first, second = batches(2)
    with watch(model, every=1) as run:
        with torch.no_grad():
            model(second[0])
        step(judge, other, second)
        step(model, optimizer, first)
    assert run.report is not None
    assert run.step == 1
    expected = inspect(_after_evaluation(second), *first)
    assert run.report.summary.loss == pytest.approx(expected.summary.loss)


def _after_evaluation(batch: Batch) -> nn.Module:
    model = network()
    with torch.no_grad():
        model(batch[0])
    return model


def test_modules_that_a_step_calls_one_by_one_are_one_network() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Sequential(nn.Linear(8, 16), nn.ReLU()), nn.Linear(16, 4)

    torch.manual_seed(0)
    model, (x, y) = Parts(), batches(1)[0]
    optimizer = sgd(model)
    before = copy.deepcopy(model)
    with watch(model) as run:
        functional.cross_entropy(model.head(model.encoder(x)), y).backward()
        optimizer.step()
    whole = inspect(nn.Sequential(before.encoder, before.head), x, y)
    assert run.report is not None
    assert [row.name for row in run.report.layers] == ["encoder.0", "head"]
    for mine, theirs in zip(run.report.layers, whole.layers, strict=True):
        assert (mine.signal, mine.grad_norm, mine.activation) == (theirs.signal, theirs.grad_norm, theirs.activation)


def test_a_service_that_fails_during_the_run_warns_and_training_goes_on(tmp_path: Path) -> None:
    class Failing:
        def take(self, *_: object, **__: object) -> None:
            warnings.warn("lost", stacklevel=1)

        def end(self, _how: object) -> None:
            return None

    model = network()
    made = Watch(
        model, every=1, policy=_default(), stop_on=None, recorders=[Failing()], loss_factor=lambda: 1.0, raises=True
    )

    def train() -> None:
        made.begin()
        step(model, sgd(model), batches(1)[0])
        made.end()

    with pytest.warns(UserWarning, match="lost"):
        train()
    assert made.step == 1


def _default() -> Any:
    from gradinspect.rules import DEFAULT_POLICY

    return DEFAULT_POLICY


def test_the_lines_of_a_file_hold_no_number_that_is_not_finite(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    with torch.no_grad():
        model[0].weight.fill_(float("inf"))  # type: ignore[operator]  # a Linear's
    file = tmp_path / "run.jsonl"
    with watch(model, file=file):
        step(model, sgd(model), batches(1)[0])
    line = json.loads(file.read_text())
    assert line["report"]["summary"]["loss"] is None
    assert line["training"]["applied_grad_norm"] is None
