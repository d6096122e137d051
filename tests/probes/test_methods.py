"""Each method compared with its formula, computed independently, and its invariances."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradinspect.engine.first_order.context import SectionInput
from gradinspect.probes.scales.candidates import make_candidates
from gradinspect.probes.scales.curvature import GroupCurvature, measure_curvature
from gradinspect.probes.scales.joint_newton import _nonnegative_least_squares, best_base_rate, joint_newton
from gradinspect.probes.scales.methods import equalize, newton, trust_ratio
from gradinspect.probes.scales.normalise import filled, normalised, spread_dex
from tests.support.networks.probed import classes, jacobian, measured, mlp, normal, output_hessian, section_input

LOSSES = {"cross_entropy": classes(3, 10), "mse": normal(10, 3, seed=2)}


def small(loss: str = "cross_entropy") -> SectionInput:
    return section_input(mlp(4, 5, 6, 3), normal(10, 4), LOSSES[loss], loss=loss)


def scales_of(s: SectionInput) -> dict[str, tuple[float, ...]]:
    found = measured(s)
    return {c.method: c.scales for c in make_candidates(found, measure_curvature(s, found))}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_form_is_the_explicit_gauss_newton_matrix_between_unit_gradients(loss: str) -> None:
    s = small(loss)
    found = measured(s)
    form = measure_curvature(s, found).form
    moved = [
        jacobian(s, m.group.entries) @ torch.cat([m.gradient[e].reshape(-1) for e in m.group.entries]) / m.grad_norm
        for m in found
    ]
    explicit = torch.stack([torch.stack([a @ output_hessian(s) @ b for b in moved]) for a in moved])
    # Products of 30 outputs in float64; entries differ in size, so each tolerance is relative to its geometric mean.
    scale = explicit.diagonal().sqrt()
    assert form is not None
    assert float(((form - explicit) / torch.outer(scale, scale)).abs().max()) < 1e-10


def test_newton_is_the_root_of_the_step_that_is_best_along_each_gradient() -> None:
    s = small()
    found = measured(s)
    curvature = measure_curvature(s, found)
    for index, (m, scale) in enumerate(zip(found, newton(found, curvature), strict=True)):
        moved = jacobian(s, m.group.entries) @ torch.cat([m.gradient[e].reshape(-1) for e in m.group.entries])
        bend = float(moved @ output_hessian(s) @ moved)
        assert scale == pytest.approx(math.sqrt(m.grad_norm**2 / bend), rel=1e-9), index


def test_layers_that_do_not_interact_get_newtons_scales_from_the_joint_system() -> None:
    s = small()
    found = measured(s)
    diagonal = torch.tensor([4.0, 0.25, 9.0], dtype=torch.float64)
    apart = GroupCurvature(diagonal, torch.diag(diagonal), True)
    assert normalised(joint_newton(found, apart)) == pytest.approx(normalised(newton(found, apart)), rel=1e-12)


def test_the_joint_system_leaves_every_layer_at_least_a_twentieth_of_its_own_step() -> None:
    found = measured(small())
    # Two gradients along nearly one output direction, the second ten times as long: the first has nothing to add, and
    # without its bound the least squares would move it backwards.
    form = torch.tensor([[1.0, 0.999], [0.999, 1.0]], dtype=torch.float64)
    short, long = replace(found[0], grad_norm=1.0), replace(found[1], grad_norm=10.0)
    scales = joint_newton([short, long], GroupCurvature(form.diagonal(), form, True))
    # The floor is 0.05·c, c = ‖g‖/√M = 1, and the step is z/(√M·‖g‖).
    assert scales[0] == pytest.approx(math.sqrt(0.05), rel=1e-12)


@given(seed=st.integers(0, 10_000), size=st.integers(1, 5))
@settings(max_examples=60)
def test_active_sets_give_the_same_least_squares_as_an_exhaustive_search(seed: int, size: int) -> None:
    a = normal(size, size, seed=seed)
    A = a @ a.T + 0.1 * torch.eye(size, dtype=torch.float64)
    c = normal(size, seed=seed + 1)
    best, lowest = torch.zeros(size, dtype=torch.float64), 0.0
    for chosen in itertools.chain.from_iterable(itertools.combinations(range(size), n) for n in range(1, size + 1)):
        rows = list(chosen)
        z = torch.zeros(size, dtype=torch.float64)
        z[rows] = torch.linalg.solve(A[rows][:, rows], c[rows])
        value = float(0.5 * z @ A @ z - c @ z)
        if bool((z >= 0).all()) and value < lowest:
            best, lowest = z, value
    torch.testing.assert_close(_nonnegative_least_squares(A, c), best, rtol=1e-8, atol=1e-10)


def test_the_base_rate_is_where_a_quadratic_loss_is_lowest_along_the_scaled_step() -> None:
    model = nn.Sequential(nn.Linear(4, 3, dtype=torch.float64))
    x, y = normal(20, 4), normal(20, 3, seed=2)
    s = section_input(model, x, y, loss="mse")
    found = measured(s)
    rate = best_base_rate(found, measure_curvature(s, found), [1.0])
    assert rate is not None

    def loss_at(rate: float) -> float:
        weight, bias = (e.tensor.detach() - rate * found[0].gradient[e] for e in found[0].group.entries)
        return float(nn.functional.mse_loss(nn.functional.linear(x, weight, bias), y))

    # A parabola is symmetric about its minimum.
    assert loss_at(0.7 * rate) == pytest.approx(loss_at(1.3 * rate), rel=1e-10)
    assert loss_at(rate) < loss_at(0.7 * rate)


def test_equalize_and_trust_ratio_are_their_formulas() -> None:
    found = measured(small())
    elements = [sum(e.tensor.numel() for e in m.group.entries) for m in found]
    weights = [math.sqrt(sum(float(e.tensor.detach().square().sum()) for e in m.group.entries)) for m in found]
    assert equalize(found) == pytest.approx(
        [math.sqrt(n) / m.grad_norm for n, m in zip(elements, found, strict=True)], rel=1e-12
    )
    assert trust_ratio(found) == pytest.approx(
        [w / m.grad_norm for w, m in zip(weights, found, strict=True)], rel=1e-12
    )


@pytest.mark.parametrize("factor", [1e-6, 1e4])
def test_a_rescaled_loss_changes_no_scale(factor: float) -> None:
    model, x, y = mlp(4, 5, 6, 3), normal(10, 4), classes(3, 10)

    def rescaled(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        assert target is not None
        return factor * nn.functional.cross_entropy(output, target)

    plain = scales_of(section_input(model, x, y))
    for method, scales in scales_of(section_input(model, x, y, custom_loss=rescaled)).items():
        if method != "joint_newton":  # its damping is relative to curvature, which a rescaled loss leaves alone: below
            assert scales == pytest.approx(plain[method], rel=1e-9), method
    assert scales_of(section_input(model, x, y, custom_loss=rescaled))["joint_newton"] == pytest.approx(
        plain["joint_newton"], rel=1e-9
    )


def test_a_factor_moved_from_one_relu_layer_to_the_next_moves_the_scales_by_its_powers() -> None:
    c = 4.0  # a power of two: gradients change by exactly 1/c and c
    weights = [normal(5, 4), normal(3, 5, seed=1)]

    def net(first: float, second: float) -> nn.Sequential:
        model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)).double()
        with torch.no_grad():
            model.get_parameter("0.weight").copy_(first * weights[0])
            model.get_parameter("2.weight").copy_(second * weights[1])
        return model

    x, y = normal(10, 4, seed=3), classes(3, 10)
    before, after = (scales_of(section_input(net(a, b), x, y)) for a, b in ((1.0, 1.0), (c, 1 / c)))
    # g1/c and g2·c, w1·c and w2/c; gᵀGg carries the fourth power, so newton's root carries the first.
    for method, power in {"equalize": 2, "trust_ratio": 4, "newton": 2}.items():
        ratio = [a[0] / a[1] for a in (before[method], after[method])]
        assert ratio[1] / ratio[0] == pytest.approx(c**power, rel=1e-9), method


def test_scales_have_geometric_mean_one_and_stay_within_a_thousand() -> None:
    assert normalised([1.0, 4.0, 16.0]) == pytest.approx([0.25, 1.0, 4.0])
    assert normalised([1.0, 1e12]) == [1e-3, 1e3]
    assert normalised([None, 2.0, 8.0]) == pytest.approx([1.0, 0.5, 2.0])
    assert normalised([None, None]) == [1.0, 1.0]


def test_a_filled_in_scale_keeps_its_ratio_to_the_groups_that_both_methods_know() -> None:
    # Where both are known the method says 10 and 40 (mean 20), the stand-in 1 and 4 (mean 2): its 6 becomes 60.
    assert filled([10.0, 40.0, None], [1.0, 4.0, 6.0]) == pytest.approx([10.0, 40.0, 60.0])
    assert filled([None, 3.0], [None, 3.0]) == [None, pytest.approx(3.0)]


def test_the_spread_is_in_powers_of_ten() -> None:
    assert spread_dex([0.1, 1.0, 10.0]) == pytest.approx(2.0)
    assert spread_dex([]) == 0.0
