"""The runs of a probe: torch's own steps, the same order of data for every arm, and a restored model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.document import from_python
from gradinspect.contracts.optimizers import Optimizer, Sgd
from gradinspect.contracts.report.scale_code import LAYER_NORMALISED, with_scale_code
from gradinspect.contracts.report.sections import LrScales, ScaleRemedy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.optimizers import UpdateState, steps_of
from gradinspect.probes.remedies.layer_normalised import layer_normalised_update
from gradinspect.probes.scales.groups import make_groups
from gradinspect.probes.scales.measurement import measure_groups
from gradinspect.probes.verify.gate import reference_loss
from gradinspect.probes.verify.probe_data import ProbeData, probe_data
from gradinspect.probes.verify.training import Run, Trainer
from tests.support.networks.probed import SGD, classes, mlp, normal, scripted, section_input

OPTIMIZERS: list[dict[str, Any]] = [
    {"type": "sgd", "lr": 0.1},
    {"type": "sgd", "lr": 0.1, "momentum": 0.9},
    {"type": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"type": "adam", "lr": 0.01, "betas": [0.8, 0.95], "weight_decay": 0.1},
    {"type": "adamw", "lr": 0.01},
]


def declared(optimizer: dict[str, Any]) -> Optimizer:
    found = from_python(InspectionSettings, {"optimizer": optimizer}).optimizer
    assert found is not None
    return found


def as_torch(optimizer: dict[str, Any], groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW,
    }  # fmt: skip
    options = {name: value for name, value in optimizer.items() if name not in ("type", "lr")}
    return kinds[optimizer["type"]](groups, **options)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: "-".join(map(str, o.values())))
def test_a_step_equals_that_of_torchs_optimizer(optimizer: dict[str, Any]) -> None:
    ours = [normal(3, 4), normal(3, seed=1)]
    theirs = [nn.Parameter(tensor.clone()) for tensor in ours]
    rates = [optimizer["lr"], optimizer["lr"] * 7]
    reference = as_torch(optimizer, [{"params": [p], "lr": rate} for p, rate in zip(theirs, rates, strict=True)])
    update, state = steps_of(declared(optimizer)).update, UpdateState()
    for step in range(5):
        gradients = [normal(3, 4, seed=10 + step), normal(3, seed=20 + step)]
        update(ours, [gradient.clone() for gradient in gradients], rates, state)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        reference.step()
    for mine, parameter in zip(ours, theirs, strict=True):
        assert torch.equal(mine, parameter.detach())  # to the last bit: a chaotic run would show a difference there


def test_a_layer_normalised_step_is_that_of_the_printed_optimizer() -> None:
    model = mlp(4, 6, 3)
    s = section_input(model, normal(20, 4), classes(3, 20))
    ours = [p.detach().clone() for p in model.parameters()]
    made: dict[str, Any] = {"model": model}
    groups = tuple(m.group.report(1.0) for m in measure_groups(s, make_groups(s)))
    remedy = ScaleRemedy(name=LAYER_NORMALISED, learned=True, base_lr=0.05)
    exec(with_scale_code(LrScales(groups=groups, remedies=(remedy,)), None).remedies[0].code or "", made)
    update, state = layer_normalised_update([[0, 1], [2, 3]]), UpdateState()
    for step in range(3):
        gradients = [normal(*p.shape, seed=step) for p in ours]
        before = [p.clone() for p in ours]
        update(ours, gradients, [0.05] * 4, state)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        made["optimizer"].step()
        moved = math.hypot(*(float((a - b).norm()) for a, b in zip(ours[:2], before[:2], strict=True)))
        assert moved == pytest.approx(0.05 * math.hypot(*(float(p.norm()) for p in before[:2])), rel=1e-12)
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        assert torch.equal(mine, parameter.detach())


def make_trainer(s: SectionInput) -> Trainer:
    return Trainer(s, probe_data(s), [entry for group in make_groups(s) for entry in group.entries])


def run_of(trainer: Trainer, rate: float = 0.1, seed: int = 0, seeds: int = 1) -> Run:
    start = trainer.starts(seeds)[seed]
    return Run(start, steps_of(Sgd(type="sgd", momentum=0.5)).update, [rate] * len(start.weights().parameters))


def dropping(seed: int = 0) -> nn.Sequential:
    model = mlp(4, 6, 6, 3, seed=seed)
    model.insert(2, nn.Dropout(0.2))
    model.insert(3, nn.BatchNorm1d(6, dtype=torch.float64))
    return model


def test_a_continued_run_equals_an_uninterrupted_one() -> None:
    s = section_input(dropping(), normal(100, 4), classes(3, 100), optimizer=SGD)
    trainer = make_trainer(s)
    with trainer.borrowed():
        whole, parts = run_of(trainer), run_of(trainer)
        trainer.train(parts, 25)
        trainer.keep(parts)
        trainer.train(whole, 75)
        trainer.train(parts, 50)
    assert parts.losses == whole.losses
    assert len(whole.losses) == 75


def test_a_run_whose_weights_were_not_saved_is_trained_again_to_the_same_losses() -> None:
    s = section_input(dropping(), normal(100, 4), classes(3, 100), optimizer=SGD)
    trainer = make_trainer(s)
    with trainer.borrowed():
        whole, parts = run_of(trainer), run_of(trainer)
        trainer.train(parts, 25)
        trainer.train(whole, 50)
        trainer.train(parts, 25)
    assert parts.losses == whole.losses
    assert trainer.steps_run == 125


def test_training_stops_at_the_step_at_which_time_runs_out() -> None:
    s = section_input(dropping(), normal(100, 4), classes(3, 100), optimizer=SGD)
    trainer = make_trainer(s)
    answers = iter([True] * 30 + [False] * 70)
    with trainer.borrowed():
        whole, cut = run_of(trainer), run_of(trainer)
        trainer.train(whole, 40)
        trainer.train(cut, 100, lambda: next(answers))
    assert 0 < len(cut.losses) <= 31
    assert cut.losses == whole.losses[: len(cut.losses)]
    assert trainer.steps_run == 40 + len(cut.losses)


def test_a_run_is_a_plain_training_loop_over_its_order_of_data() -> None:
    model = mlp(4, 6, 3)
    x, y = normal(100, 4), classes(3, 100)
    s = section_input(model, x, y, optimizer=SGD)
    trainer = make_trainer(s)
    with trainer.borrowed():
        run = run_of(trainer)
        trainer.train(run, 30)
    order = trainer.data.minibatches(run.start.seed, 30)
    assert order is not None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    losses = []
    for rows in order:
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert run.losses == pytest.approx(losses, rel=1e-9)


def test_a_rate_that_is_far_too_high_ends_as_diverged() -> None:
    trainer = make_trainer(section_input(mlp(4, 6, 3), normal(64, 4), normal(64, 3), loss="mse"))
    with trainer.borrowed():
        run = run_of(trainer, rate=1e3)
        trainer.train(run, 100)
    assert run.ended == "diverged"
    assert len(run.losses) < 100


def test_every_start_of_an_upload_has_the_files_own_weights_and_another_order() -> None:
    model = scripted(mlp(4, 6, 3))
    s = section_input(model, normal(100, 4), classes(3, 100))
    trainer = make_trainer(s)
    starts = trainer.starts(2)
    for start in starts:
        for mine, parameter in zip(start.weights().parameters, model.parameters(), strict=True):
            assert torch.equal(mine, parameter)
    orders = [trainer.data.minibatches(start.seed, 3) for start in starts]
    assert orders[0] is not None
    assert orders[1] is not None
    assert not torch.equal(orders[0][0], orders[1][0])


def test_a_start_of_a_spec_is_a_fresh_initialisation() -> None:
    s = section_input(dropping(0), normal(100, 4), classes(3, 100), rebuild=lambda seed: dropping(seed), seed=0)
    first, second = make_trainer(s).starts(2)
    assert torch.equal(first.weights().parameters[0], dropping(0).get_parameter("0.weight"))
    assert torch.equal(second.weights().parameters[0], dropping(1).get_parameter("0.weight"))


def test_a_tied_tensor_of_a_file_moves_by_the_sum_of_its_gradients() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.second(torch.tanh(self.first(x)))
            return output

    eager = Tied().double()
    losses = []
    for model in (eager, scripted(eager)):
        trainer = make_trainer(section_input(model, normal(40, 4), normal(40, 4, seed=1), loss="mse"))
        with trainer.borrowed():
            run = run_of(trainer)
            trainer.train(run, 25)
        losses.append(run.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_sparse_gradients_train_as_dense_ones_do() -> None:
    def lookup(*, sparse: bool) -> nn.Module:
        net = nn.Sequential(nn.Embedding(20, 4, sparse=sparse, dtype=torch.float64), nn.Linear(4, 3).double())
        with torch.no_grad():
            for place, parameter in enumerate(net.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=place))
        return net

    losses = []
    for sparse in (True, False):
        trainer = make_trainer(section_input(lookup(sparse=sparse), classes(20, 64), classes(3, 64, seed=2)))
        with trainer.borrowed():
            run = run_of(trainer)
            trainer.train(run, 25)
        losses.append(run.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.parametrize(("samples", "size"), [(40, 40), (64, 32), (128, 32), (600, 64), (1797, 128), (9000, 128)])
def test_minibatches_are_a_power_of_two_or_everything(samples: int, size: int) -> None:
    s = section_input(mlp(4, 3), normal(samples, 4), classes(3, samples))
    assert probe_data(s).batch_size == size


def test_an_epoch_has_every_sample_at_most_once_and_is_the_same_for_every_arm() -> None:
    data = ProbeData((normal(100, 4),), classes(3, 100), 100, 32, False)
    first, again, other = (data.minibatches(seed, 6) for seed in (5, 5, 6))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(torch.stack(first), torch.stack(other))
    for epoch in (torch.cat(first[:3]), torch.cat(first[3:])):
        assert len(epoch.unique()) == 96


def test_the_reference_loss_is_that_of_the_best_constant_output_where_the_first_loss_is_higher() -> None:
    model = mlp(4, 6, 3)
    with torch.no_grad():
        model.get_parameter("2.bias").copy_(torch.tensor([9.0, 0.0, 0.0]))
    y = torch.tensor([0] * 10 + [1] * 20 + [2] * 30)
    s = section_input(model, normal(60, 4), y)
    trainer = make_trainer(s)
    entropy = -sum(p * math.log(p) for p in (1 / 6, 1 / 3, 1 / 2))
    with trainer.borrowed():
        assert trainer.initial_loss(trainer.starts(1)[0]) > 2 * entropy
        assert reference_loss(s, trainer, trainer.starts(1)[0]) == pytest.approx(entropy, rel=1e-9)


def test_the_reference_loss_of_a_regression_is_the_variance_of_the_targets() -> None:
    x, y = normal(60, 4), 3.0 + normal(60, 3, seed=1)
    s = section_input(mlp(4, 6, 3), x, y, loss="mse")
    trainer = make_trainer(s)
    with trainer.borrowed():
        found = reference_loss(s, trainer, trainer.starts(1)[0])
    assert found == pytest.approx(float((y - y.mean(0)).square().mean()), rel=1e-9)


def test_a_run_computes_in_the_requested_precision() -> None:
    model, x, y = mlp(4, 6, 3, dtype=torch.float32), normal(40, 4, dtype=torch.float32), classes(3, 40)
    s = section_input(model, x, y, precision={"compute": "bfloat16"})
    trainer = make_trainer(s)
    with trainer.borrowed():
        run = run_of(trainer)
        trainer.train(run, 1)
    whole = nn.functional.cross_entropy(model(x), y).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = nn.functional.cross_entropy(model(x), y).item()
    assert whole != half
    assert run.losses == [half]
