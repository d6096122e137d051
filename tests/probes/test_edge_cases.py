"""Suggestions at the limits of each method. Nothing is trained: `verify` is off, or not reached."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from gradinspect.contracts.report.sections import LrScales, ScaleCandidate
from gradinspect.engine.first_order.context import Budget
from gradinspect.probes.scales.normalise import geometric_mean
from tests.support.networks.probed import SGD, classes, glorot, mlp, normal, section_input, suggestion

UNTESTED = {"verify": False}


def candidate(scales: LrScales, method: str) -> ScaleCandidate:
    return next(c for c in scales.candidates if c.method == method)


def sigmoid_net(seed: int = 0) -> nn.Sequential:
    return glorot(mlp(8, 16, 16, 16, 3, activation=nn.Sigmoid, seed=seed), seed)


def test_without_verification_the_default_method_is_suggested_as_untested() -> None:
    found = suggestion(section_input(sigmoid_net(), normal(128, 8), classes(3, 128), lr_scales=UNTESTED))
    assert (found.status, found.verdict, found.method) == ("measured", "undetermined", "newton")
    assert "not tested" in (found.reason or "")
    assert [group.layer for group in found.groups] == ["0", "2", "4", "6"]
    assert geometric_mean([group.scale or 0 for group in found.groups]) == pytest.approx(1.0)
    assert [group.scale for group in found.groups] == sorted((g.scale or 0 for g in found.groups), reverse=True)
    assert found.evidence is None


def test_all_four_methods_are_reported_with_their_spread() -> None:
    found = suggestion(section_input(sigmoid_net(), normal(128, 8), classes(3, 128), lr_scales=UNTESTED))
    assert [c.method for c in found.candidates] == ["newton", "joint_newton", "trust_ratio", "equalize"]
    for c in found.candidates:
        scales = [group.scale or 0 for group in c.groups]
        assert c.spread_dex == pytest.approx(math.log10(max(scales) / min(scales)))


def test_one_group_has_nothing_to_scale() -> None:
    found = suggestion(section_input(mlp(8, 3), normal(64, 8), classes(3, 64)))
    assert (found.verdict, found.method, found.evidence) == ("keep_uniform", "uniform", None)


def test_scales_within_half_a_decade_keep_uniform_without_a_probe() -> None:
    model = mlp(8, 8, 8, activation=nn.Identity)
    with torch.no_grad():  # two orthogonal layers: equal norms of weights and gradients
        model.get_parameter("0.weight").copy_(torch.eye(8))
        model.get_parameter("2.weight").copy_(torch.eye(8))
        model.get_parameter("0.bias").zero_()
        model.get_parameter("2.bias").zero_()
    s = section_input(model, normal(64, 8), normal(64, 8, seed=1), loss="mse", optimizer=SGD)
    found = suggestion(s)
    assert (found.verdict, found.method, found.evidence) == ("keep_uniform", "uniform", None)
    assert "powers of ten" in (found.reason or "")
    assert max(c.spread_dex or 0 for c in found.candidates) < 0.5


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_adam_keeps_uniform_and_says_why(optimizer: str) -> None:
    s = section_input(
        sigmoid_net(), normal(128, 8), classes(3, 128), lr_scales=UNTESTED, optimizer={"type": optimizer, "lr": 1e-3}
    )
    found = suggestion(s)
    assert (found.verdict, found.method) == ("keep_uniform", "uniform")
    assert "Adam" in (found.reason or "")


def test_an_unused_module_and_one_whose_gradient_is_zero_keep_scale_one() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = sigmoid_net()
            self.off = nn.Linear(8, 3, dtype=torch.float64)
            self.unused = nn.Linear(2, 2, dtype=torch.float64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.body(x) + 0.0 * self.off(x)
            return output

    found = suggestion(section_input(Net(), normal(128, 8), classes(3, 128), lr_scales=UNTESTED))
    for c in found.candidates:
        notes = {group.layer: (group.scale, group.note) for group in c.groups}
        assert notes["off"] == notes["unused"] == (1.0, "no_gradient"), c.method
        moving = [group.scale or 0 for group in c.groups if group.note != "no_gradient"]
        assert geometric_mean(moving) == pytest.approx(1.0), c.method


def test_equalize_replaces_the_trust_ratio_of_a_group_of_zero_weights() -> None:
    model = sigmoid_net()
    with torch.no_grad():
        model.get_parameter("6.weight").zero_()
        model.get_parameter("0.weight").mul_(2.0)
    # The head's weights are zero, so no gradient passes it: it alone moves, and its trust ratio is 0/‖g‖.
    found = suggestion(section_input(model, normal(128, 8), classes(3, 128), lr_scales=UNTESTED))
    assert {g.layer: g.note for g in candidate(found, "trust_ratio").groups} == {
        "0": "no_gradient", "2": "no_gradient", "4": "no_gradient", "6": "equalized",
    }  # fmt: skip


def test_equalize_replaces_newton_for_a_loss_without_curvature() -> None:
    found = suggestion(
        section_input(sigmoid_net(), normal(128, 8), normal(128, 3, seed=1), loss="l1", lr_scales=UNTESTED)
    )
    newton, equalize = candidate(found, "newton"), candidate(found, "equalize")
    assert {group.note for group in newton.groups} == {"equalized"}
    assert [g.scale for g in newton.groups] == pytest.approx([g.scale for g in equalize.groups], rel=1e-12)


def test_a_loss_that_is_not_convex_in_the_output_has_no_newton() -> None:
    def bent_down(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        return torch.log1p((output - 3.0).square()).mean()  # concave further than 1 from its minimum

    found = suggestion(
        section_input(sigmoid_net(), normal(128, 8), normal(128, 3, seed=1), custom_loss=bent_down, lr_scales=UNTESTED)
    )
    for method in ("newton", "joint_newton"):
        assert "not convex" in (candidate(found, method).reason or "")
        assert candidate(found, method).groups == ()
    assert found.method == "equalize"


def test_a_weight_that_is_not_finite_ends_the_suggestion_with_its_name() -> None:
    model = sigmoid_net()
    with torch.no_grad():
        model.get_parameter("4.weight")[0, 0] = math.nan
    found = suggestion(section_input(model, normal(128, 8), classes(3, 128)))
    assert (found.status, found.verdict, found.groups) == ("undetermined", "undetermined", ())
    assert "4.weight" in (found.reason or "")


def test_a_gradient_that_is_not_finite_ends_the_suggestion_with_its_name() -> None:
    def broken(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        return (output - output.detach()).square().sum().sqrt()  # √0: its value is 0, its slope 0/0

    found = suggestion(section_input(sigmoid_net(), normal(128, 8), classes(3, 128), custom_loss=broken))
    assert found.status == "undetermined"
    assert "gradient of 0.weight" in (found.reason or "")


def test_gradients_that_are_all_zero_end_the_suggestion() -> None:
    found = suggestion(
        section_input(
            sigmoid_net(), normal(128, 8), classes(3, 128), custom_loss=lambda output, _target: (0.0 * output).sum()
        )
    )
    assert (found.status, found.verdict) == ("undetermined", "undetermined")
    assert "zero" in (found.reason or "")


@pytest.mark.parametrize("loss", ["output_mean", "random_cotangent"])
def test_a_loss_without_a_minimum_is_not_probed(loss: str) -> None:
    found = suggestion(section_input(sigmoid_net(), normal(128, 8), loss=loss))
    assert (found.verdict, found.evidence) == ("undetermined", None)
    assert "no minimum" in (found.reason or "")
    assert found.groups


def test_without_time_for_a_derivative_per_group_the_methods_without_one_remain() -> None:
    s = section_input(sigmoid_net(), normal(128, 8), classes(3, 128), lr_scales=UNTESTED)
    found = suggestion(replace(s, pass_seconds=1e3, budget=Budget(1.5e3)))  # time for one pass, and not for four
    assert "budget" in (candidate(found, "newton").reason or "")
    assert candidate(found, "trust_ratio").groups
    assert found.method == "equalize"


def test_a_suggestion_costs_at_most_twice_two_forwards_a_group_and_a_backward() -> None:
    model = sigmoid_net()
    s = section_input(model, normal(128, 8), classes(3, 128), lr_scales=UNTESTED)
    forwards: list[int] = []
    backwards: list[int] = []

    def count_backward(_module: nn.Module, _inputs: object, outputs: tuple[torch.Tensor, ...] | torch.Tensor) -> None:
        backwards.append(outputs[0].shape[0])

    model.register_forward_hook(lambda _m, inputs, _output: forwards.append(inputs[0].shape[0]))
    # Below the head, the hook's input needs a gradient, which is when torch calls it.
    model[6].register_full_backward_hook(count_backward)
    suggestion(s)
    samples, groups = 128, 4
    assert sum(forwards) <= 2 * 2 * groups * samples
    assert sum(backwards) <= 2 * samples


def test_a_suggestion_restores_the_model() -> None:
    model = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Sigmoid(), nn.Dropout(0.1), nn.Linear(16, 16), nn.Sigmoid(),
        nn.Linear(16, 3),
    )  # fmt: skip
    model.get_parameter("4.bias").requires_grad_(False)
    first = model.get_parameter("0.weight")
    first.grad = torch.ones_like(first)
    model.eval()
    s = section_input(
        model, normal(128, 8, dtype=torch.float32), classes(3, 128), optimizer=SGD,
        lr_scales={"probe_steps": 10, "seeds": 1},
    )  # fmt: skip
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    found = suggestion(s)
    assert found.evidence is not None, "the case is about a suggestion with a probe"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(torch.get_rng_state(), random_state)
    assert first.grad is not None
    assert torch.equal(first.grad, torch.ones_like(first))
    assert model.get_parameter("6.weight").grad is None
    assert not model.training
    assert not model.get_parameter("4.bias").requires_grad
