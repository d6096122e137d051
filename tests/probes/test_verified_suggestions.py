"""The whole suggestion with its gate, on small networks and scikit-learn's digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect import inspect
from gradinspect.contracts.report.sections import LrScales
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.probes.verify.curves import geometric_mean_curve
from gradinspect.probes.verify.probe_data import probe_data
from tests.support.networks.probed import (
    SGD,
    classes,
    digits,
    drawn,
    glorot,
    mlp,
    normal,
    scripted,
    section_input,
    suggestion,
)

MOMENTUM = {"type": "sgd", "lr": 0.1, "momentum": 0.5}


def sigmoid_net(seed: int) -> nn.Sequential:
    return mlp(64, 16, 16, 16, 10, activation=nn.Sigmoid, seed=seed)


def deep_net(seed: int) -> nn.Sequential:
    return glorot(mlp(64, *(16,) * 10, 10, activation=nn.Sigmoid, seed=seed), seed)


def subject(make: Any, samples: int = 512, **settings: Any) -> SectionInput:
    x, y = digits(samples)
    return section_input(make(100), x.double(), y, rebuild=make, seed=100, **settings)


@cache
def vanishing_input() -> SectionInput:
    return subject(sigmoid_net, optimizer=MOMENTUM)


@cache
def vanishing() -> LrScales:
    return suggestion(vanishing_input())


@cache
def deep_input() -> SectionInput:
    return subject(deep_net, optimizer=SGD, lr_scales={"probe_steps": 40, "seeds": 1})


@cache
def deep() -> LrScales:
    return suggestion(deep_input())


def curve(scales: LrScales, arm: str, base_lr: float | None) -> tuple[float | None, ...]:
    assert scales.evidence is not None
    return next(c.losses for c in scales.evidence.curves if c.arm == arm and c.base_lr == base_lr)


def trained(s: SectionInput, code: str, seed: int, steps: int) -> list[float]:
    """Run the printed code in a script that has only a model."""
    assert s.rebuild is not None
    model = s.rebuild(seed)
    script: dict[str, Any] = {"model": model}
    exec(code, script)
    data = probe_data(s)
    losses = []
    minibatches = data.minibatches(seed, steps)
    for step in range(steps):
        rows = None if minibatches is None else minibatches[step]
        (x,), y = data.pick(rows)
        assert y is not None
        loss = nn.functional.cross_entropy(model(x), y)
        script["optimizer"].zero_grad()
        loss.backward()
        script["optimizer"].step()
        losses.append(loss.item())
    return losses


def assert_same_curve(mine: Sequence[float], shown: Sequence[float | None]) -> None:
    # The steps are the same to the last bit; a curve is shown in six significant digits.
    assert len(mine) == len(shown)
    assert max(abs(a / (b or 0.0) - 1) for a, b in zip(mine, shown, strict=True)) <= 5e-6


def test_scales_are_recommended_for_a_sigmoid_network_and_every_seed_agrees() -> None:
    found = vanishing()
    assert found.verdict == "use"
    chosen = next(c for c in found.candidates if c.method == found.method)
    assert chosen.ratio is not None
    assert chosen.ratio <= 0.9
    assert len(chosen.per_seed) == 6  # three seeds that chose it, and three that confirmed
    assert all(ratio is not None and ratio < 1 for ratio in chosen.per_seed)
    assert {len(c.per_seed) for c in found.candidates if c is not chosen} == {3}
    assert found.evidence is not None
    assert found.evidence.confirming_seeds == 3
    assert [g.scale for g in found.groups] == [g.scale for g in chosen.groups]


def test_the_recommended_rate_is_half_a_decade_under_the_best() -> None:
    found = vanishing()
    chosen = next(c for c in found.candidates if c.method == found.method)
    assert found.base_lr is not None
    assert chosen.base_lr is not None
    assert chosen.base_lr / found.base_lr == pytest.approx(math.sqrt(10), rel=1e-4)


def test_the_printed_code_trains_with_the_curve_of_the_probes_arm() -> None:
    found, s = vanishing(), vanishing_input()
    assert found.code is not None
    assert found.evidence is not None
    mine = [trained(s, found.code, seed, found.evidence.steps) for seed in (100, 101, 102)]
    assert_same_curve(geometric_mean_curve(mine), curve(found, found.method or "", found.base_lr))


def test_the_evidence_names_its_runs_and_data() -> None:
    evidence = vanishing().evidence
    assert evidence is not None
    assert evidence.seeds_are == "initialisations"
    assert (evidence.seeds, evidence.samples, evidence.batch_size, evidence.optimizer) == (3, 512, 64, "sgd")
    assert f"first {evidence.steps} steps of 3 initialisations" in evidence.statement
    assert "not measured" in evidence.statement
    assert not evidence.is_synthetic
    assert evidence.is_complete
    assert 0 < evidence.steps_run <= evidence.max_steps
    arms = [c.arm for c in evidence.curves]
    assert set(arms) == {"uniform", "newton", "joint_newton", "trust_ratio", "equalize"}
    assert all(len(c.losses) == evidence.steps for c in evidence.curves)


def test_the_same_seed_gives_the_same_answer_twice() -> None:
    def run() -> LrScales:
        return suggestion(subject(sigmoid_net, 128, optimizer=SGD, lr_scales={"probe_steps": 20, "seeds": 2}))

    assert run() == run()


def test_ten_sigmoid_layers_do_not_learn_and_a_remedy_does() -> None:
    found = deep()
    assert (found.verdict, found.method, found.base_lr) == ("none_learns", None, None)
    assert found.evidence is not None
    assert found.evidence.is_extended
    assert found.evidence.steps == 120
    learned = [remedy for remedy in found.remedies if remedy.learned]
    assert learned
    for remedy in learned:
        assert remedy.loss_ratio is not None
        assert remedy.loss_ratio <= 0.95
        assert len(remedy.curve) == 120


def test_the_code_of_every_remedy_trains_with_its_curve() -> None:
    found, s = deep(), deep_input()
    assert {remedy.name for remedy in found.remedies} == {"rescale_gains", "layer_normalised_updates", "adam"}
    for remedy in found.remedies:
        assert remedy.code is not None
        assert_same_curve(trained(s, remedy.code, 100, 120), remedy.curve)


def test_rescaled_gains_leave_the_first_layer_and_the_head_and_pass_the_signal_on() -> None:
    code = next(remedy.code for remedy in deep().remedies if remedy.name == "rescale_gains")
    assert code is not None
    model = deep_net(100)
    before = signal_ratio(model)
    script: dict[str, Any] = {"model": model}
    exec(code, script)
    changed = set(script["gains"])
    assert changed == {f"{2 * place}.weight" for place in range(1, 10)}
    # Glorot's sigmoids divide by some four a layer: nine of them by 4⁹ = 2.6e5. χ1 ≈ 1 leaves the batch's scatter.
    assert before < 1e-4
    assert 0.01 < signal_ratio(model) < 100


def signal_ratio(model: nn.Sequential) -> float:
    """Compute ‖δ‖ of the first pre-activation over that of the last hidden one."""
    x, y = digits(512)
    kept: list[torch.Tensor] = []
    values = x.double()
    for layer in model:
        values = layer(values)
        if isinstance(layer, nn.Linear):
            values.retain_grad()
            kept.append(values)
    nn.functional.cross_entropy(values, y).backward()
    first, last = kept[0].grad, kept[-2].grad
    assert first is not None
    assert last is not None
    return float(first.norm() / last.norm())


def test_a_file_is_probed_from_its_own_weights_over_other_data_orders() -> None:
    x, y = digits(256)
    model = scripted(sigmoid_net(3))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    s = section_input(model, x.double(), y, optimizer=SGD, lr_scales={"probe_steps": 10, "seeds": 2})
    found = suggestion(s)
    assert found.evidence is not None
    assert found.evidence.seeds_are == "data_orders"
    assert "data orders" in found.evidence.statement
    for kept, parameter in zip(before, model.parameters(), strict=True):
        assert torch.equal(kept, parameter)
    # Both seeds begin from the file's weights, so their first losses differ by the minibatch alone.
    eager = sigmoid_net(3)
    orders = [probe_data(s).minibatches(seed, 1) for seed in (0, 1)]
    firsts = [nn.functional.cross_entropy(eager(x.double()[o[0]]), y[o[0]]).item() for o in orders if o is not None]
    for shown in found.evidence.curves:
        assert shown.losses[0] == pytest.approx(math.sqrt(firsts[0] * firsts[1]), rel=1e-5)


def test_evidence_from_a_teachers_targets_is_marked_synthetic() -> None:
    s = section_input(
        sigmoid_net(0), normal(128, 64), classes(10, 128), rebuild=sigmoid_net, synthetic=True, optimizer=SGD,
        lr_scales={"probe_steps": 20, "seeds": 1},
    )  # fmt: skip
    found = suggestion(s)
    assert found.evidence is not None
    assert found.evidence.is_synthetic


def test_a_budget_that_is_too_small_decides_nothing_and_names_what_to_raise() -> None:
    found = suggestion(subject(sigmoid_net, optimizer=SGD, lr_scales={"max_steps": 150}))
    assert (found.status, found.verdict) == ("measured", "undetermined")
    assert "max_steps" in (found.reason or "")
    assert found.evidence is not None
    assert not found.evidence.is_complete
    assert found.evidence.max_steps == 150
    assert found.evidence.steps_run <= 150
    assert found.groups


def test_a_plateau_that_lasts_longer_than_the_budget_is_inconclusive() -> None:
    asked = {
        "probe_steps": 10,
        "seeds": 1,
        "max_steps": 700,
    }  # enough for all five arms once, not for runs three times as long
    found = suggestion(subject(deep_net, optimizer=SGD, lr_scales=asked))
    assert (found.verdict, found.method) == ("inconclusive_plateau", None)
    assert "plateau" in (found.reason or "")
    assert found.evidence is not None
    assert not found.evidence.is_complete
    assert found.remedies == ()


def test_a_job_without_time_left_runs_no_probe_and_gives_the_reason() -> None:
    found = suggestion(subject(sigmoid_net, optimizer=SGD, seconds=0.0))
    assert found.status == "undetermined"
    assert (found.reason or "").startswith("budget: needs about ")
    assert found.groups == ()


def test_a_budget_in_seconds_ends_a_probe_too() -> None:
    found = suggestion(subject(sigmoid_net, optimizer=SGD, lr_scales={"max_seconds": 0.05}))
    assert found.verdict == "undetermined"
    assert found.evidence is not None
    assert not found.evidence.is_complete
    assert found.evidence.max_seconds == 0.05


def test_a_loss_below_zero_cannot_be_compared() -> None:
    def shifted(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        assert target is not None
        return nn.functional.cross_entropy(output, target) - 5.0

    x, y = digits(128)
    s = section_input(sigmoid_net(0), x.double(), y, custom_loss=shifted, optimizer=SGD, lr_scales={"seeds": 1})
    found = suggestion(s)
    assert found.verdict == "undetermined"
    assert "not positive" in (found.reason or "")


def test_a_spec_is_probed_over_fresh_initialisations_and_a_module_over_data_orders() -> None:
    x, y = digits(128)
    spec = {
        "input": {"shape": [64]},
        "layers": [
            {"type": "Linear", "in_features": 64, "out_features": 16}, {"type": "Sigmoid"},
            {"type": "Linear", "out_features": 16}, {"type": "Sigmoid"}, {"type": "Linear", "out_features": 10},
        ],
    }  # fmt: skip
    asked = {"probe_steps": 10, "seeds": 2}
    of_spec = inspect(spec, x, y, optimizer=SGD, lr_scales=asked, seed=4).lr_scales
    of_module = inspect(sigmoid_net(0).float(), x, y, optimizer=SGD, lr_scales=asked).lr_scales
    assert of_spec is not None
    assert of_module is not None
    assert of_spec.evidence is not None
    assert of_module.evidence is not None
    assert (of_spec.evidence.seeds_are, of_module.evidence.seeds_are) == ("initialisations", "data_orders")


def test_adam_is_probed_with_adam_where_verification_is_requested() -> None:
    s = subject(sigmoid_net, 128, optimizer={"type": "adam", "lr": 1e-3}, lr_scales={"probe_steps": 20, "seeds": 1})
    found = suggestion(s)
    assert found.evidence is not None
    assert found.evidence.optimizer == "adam"
    assert "adam" not in {remedy.name for remedy in found.remedies}
    assert found.code is None or "torch.optim.Adam(" in found.code


def test_a_network_that_learns_well_keeps_uniform_at_a_rate_that_was_probed() -> None:
    def make(seed: int) -> nn.Module:
        return drawn(
            lambda: nn.Sequential(
                nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(),
                nn.Linear(32, 10),
            ).double(),
            seed,
        )  # fmt: skip

    found = suggestion(subject(make, optimizer=SGD, lr_scales={"probe_steps": 40}))
    assert (found.verdict, found.method) == ("keep_uniform", "uniform")
    assert {group.scale for group in found.groups} == {1.0}
    assert len(curve(found, "uniform", found.base_lr)) == 40
    assert found.code is not None
    assert "model.parameters()" in found.code
