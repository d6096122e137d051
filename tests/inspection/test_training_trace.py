"""The short training run on quadratics, where every step has a closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradinspect.contracts.optimizers import Adam, AdamW, Optimizer, Sgd
from gradinspect.contracts.report.sections import TimeDecay
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.inspection.training_trace import STEPS, training_trace_section
from tests.support.networks.section_inputs import mlp, normal, scripted, section_input


def traced(s: SectionInput) -> TimeDecay:
    section = training_trace_section(s).section
    assert isinstance(section, TimeDecay)
    return section


def quadratic(lr: float, momentum: float = 0.0) -> SectionInput:
    """Build loss = w², the squared error of one weight, whose Hessian is 2."""
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(3.0)
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    return section_input(model, one, zero, optimizer=Sgd(type="sgd", lr=lr, momentum=momentum))


def test_on_a_quadratic_the_gradient_decays_by_its_factor_at_each_step() -> None:
    section = traced(quadratic(0.1))
    assert section.slope_log10_per_step == pytest.approx(math.log10(1 - 0.1 * 2), rel=1e-10)
    assert section.stderr == pytest.approx(0.0, abs=1e-12)
    assert section.r2 == pytest.approx(1.0, abs=1e-12)
    assert section.steps_used == STEPS
    assert section.reason is None


def test_every_point_of_the_trace_equals_the_closed_form() -> None:
    section = traced(quadratic(0.1))
    for point in section.trace:
        w = 3.0 * 0.8**point.step
        assert point.loss == pytest.approx(w**2, rel=1e-12)
        assert point.total_grad_norm == pytest.approx(2 * w, rel=1e-12)
        assert point.layer_grad_norms == pytest.approx((2 * w,), rel=1e-12)
        assert point.layer_update_to_weight == pytest.approx((0.2,), rel=1e-12)


def test_momentum_follows_its_recurrence() -> None:
    section = traced(quadratic(0.1, momentum=0.5))
    w, velocity = 3.0, 0.0
    for point in section.trace:
        assert point.total_grad_norm == pytest.approx(abs(2 * w), rel=1e-9, abs=1e-12)
        velocity = 0.5 * velocity + 2 * w
        w -= 0.1 * velocity


@pytest.mark.parametrize(
    "optimizer", [Adam(type="adam", weight_decay=0.0), AdamW(type="adamw", weight_decay=0.0)], ids=["adam", "adamw"]
)
def test_adam_moves_each_weight_by_its_rate_at_the_first_step(optimizer: Optimizer) -> None:
    model = mlp(4, 3)
    s = section_input(model, normal(6, 4), normal(6, 3, seed=1), optimizer=optimizer)
    moved = 1e-3 * math.sqrt(15)
    size = math.sqrt(sum(float(p.detach().square().sum()) for p in model.parameters()))
    (first,) = traced(s).trace[0].layer_update_to_weight
    assert first == pytest.approx(moved / size, rel=1e-6)  # g/(|g| + 1e-8) is 1 up to 1e-8/|g|


def test_the_first_point_is_the_first_pass() -> None:
    s = section_input(mlp(4, 6, 3), normal(6, 4), normal(6, 3, seed=1), optimizer=Sgd(type="sgd", lr=0.01))
    section = traced(s)
    squares = [reading.moments.square_total for reading in s.reading.gradients.values()]
    assert section.trace[0].loss == pytest.approx(s.reading.loss, rel=1e-12)
    assert section.trace[0].total_grad_norm == pytest.approx(math.sqrt(sum(squares)), rel=1e-12)
    assert section.layers == ("0", "2")
    assert len(section.trace[0].layer_grad_norms) == 2


def test_a_run_that_diverges_ends_with_its_last_finite_step() -> None:
    section = traced(quadratic(1e80))
    assert section.status == "undetermined"
    assert "left the finite numbers" in str(section.reason)
    assert len(section.trace) < STEPS


def test_the_model_is_restored_exactly() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    s = section_input(model, normal(8, 4), normal(8, 3, seed=1), optimizer=Sgd(type="sgd", lr=0.1, momentum=0.9))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    traced(s)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_torchscript_file_trains_as_its_eager_model_does() -> None:
    x, y = normal(6, 4), normal(6, 3, seed=1)
    optimizer = Adam(type="adam")
    eager = traced(section_input(mlp(4, 6, 3), x, y, optimizer=optimizer))
    loaded = traced(section_input(scripted(mlp(4, 6, 3)), x, y, optimizer=optimizer))
    assert [p.loss for p in loaded.trace] == pytest.approx([p.loss for p in eager.trace], rel=1e-10)


def test_without_an_optimizer_the_assumed_one_is_named() -> None:
    section = traced(section_input(mlp(4, 3), normal(6, 4), normal(6, 3, seed=1)))
    assert section.reason == "no optimizer was declared; SGD with lr 0.1 was used"


def test_a_gradient_that_is_zero_at_every_step_has_no_slope() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    section = traced(section_input(model, zero, zero, optimizer=Sgd(type="sgd")))
    assert section.status == "undetermined"
    assert "0 steps have a gradient" in str(section.reason)


def test_a_spent_budget_leaves_the_trace_undetermined() -> None:
    section = traced(section_input(mlp(4, 3), normal(6, 4), normal(6, 3, seed=1), budget=0.0))
    assert str(section.reason).startswith("budget: needs about ")
