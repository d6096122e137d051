"""The search for a prescription: what is found, confirmed and pruned, and what is said where nothing is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gradinspect import inspect
from gradinspect.contracts.document import from_python
from gradinspect.contracts.optimizers import Optimizer, Sgd
from gradinspect.contracts.report.prescription_code import prescription_code
from gradinspect.contracts.report.trial import Prescription, Trial
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.engine.first_order.first_pass import Subject, first_pass
from gradinspect.engine.network.batch import Batch
from gradinspect.engine.network.build import build
from gradinspect.probes.prescription.patient import Patient
from gradinspect.probes.prescription.prescribe import prescribe
from gradinspect.probes.trial.arm import restored, train_arm
from gradinspect.probes.trial.task import Task
from gradinspect.probes.verify.budget import ProbeBudget

CPU = torch.device("cpu")
SGD = Sgd(type="sgd", lr=0.1)


def batch(*, features: int = 16, samples: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(samples, features, generator=draws)
    return x, (x @ torch.randn(features, 4, generator=draws)).argmax(1)


def chain(activation: type[nn.Module], depth: int, *, width: int = 32) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [nn.Linear(16 if index == 0 else width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def prescribed(
    model: nn.Module | dict[str, Any],
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    optimizer: Optimizer | None = SGD,
    loss: Any = "cross_entropy",
    max_steps: int = 4000,
) -> Prescription:
    """Make the trial of the declared optimizer alone, and prescribe after it."""
    rebuild = None
    given: Any = model
    if isinstance(model, dict):
        spec = from_python(ModelSpec, model)

        def rebuild(seed: int) -> nn.Module:
            return build(spec, seed=seed)

        model = rebuild(0)
    declared = optimizer.model_dump(mode="json", exclude_none=True) if optimizer is not None else None
    report = inspect(given, x, y, loss=loss, optimizer=declared)
    named = {} if callable(loss) else {"loss": loss}
    settings = InspectionSettings(optimizer=optimizer, **named)
    custom = loss if callable(loss) else None
    subject = Subject(model, Batch((x,), lambda _output: y, False, ""), 0, rebuild)
    s = first_pass(subject, settings, device=CPU, custom_loss=custom)
    task = Task.of(s)
    with restored(s.model):
        arm = train_arm(s.model, optimizer or SGD, task, ProbeBudget(max_steps=1000, max_seconds=600))
    trial = Trial(arms=(arm.document(optimizer or SGD, is_declared=optimizer is not None),))
    budget = ProbeBudget(max_steps=max_steps, max_seconds=600)
    return prescribe(Patient.of(s, task), report, report.findings, trial, declared=optimizer, budget=budget)


def final_loss(model: nn.Module, found: Prescription, x: torch.Tensor, y: torch.Tensor, *, steps: int = 100) -> float:
    """Paste the code and train with a loop that shares nothing with the search."""
    scope: dict[str, Any] = {"model": model}
    assert found.code is not None
    exec(found.code, scope)
    if "prepare" in scope:
        x, y = scope["prepare"](x, y)
    for _ in range(steps):
        scope["optimizer"].zero_grad()
        loss = nn.functional.cross_entropy(scope["model"](x), y)
        loss.backward()
        scope["optimizer"].step()
    return float(loss.detach())


def actions(found: Prescription) -> list[str]:
    return [change.action for change in found.changes]


def test_a_deep_sigmoid_network_gets_another_activation_and_the_pasted_code_trains_it() -> None:
    x, y = batch()
    found = prescribed(chain(nn.Sigmoid, 8), x, y)
    assert found.outcome == "found"
    assert "replace_activation" in actions(found)
    assert found.seeds == 3
    assert found.skill_before is not None
    assert found.skill_before < 0.1
    assert found.skill_after is not None
    assert found.skill_after > 0.5
    torch.manual_seed(7)
    assert final_loss(chain(nn.Sigmoid, 8), found, x, y) < 0.5


def test_the_code_is_that_of_the_changes() -> None:
    x, y = batch()
    found = prescribed(chain(nn.Sigmoid, 8), x, y)
    assert found.optimizer is not None
    assert found.code == prescription_code(found.changes, found.optimizer)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(16 if index == 0 else 32, 32) for index in range(8)])
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return torch.as_tensor(self.head(x))


def test_functional_activations_are_named_by_their_line_and_replaced() -> None:
    x, y = batch()
    found = prescribed(Functional(), x, y)
    (change,) = (change for change in found.changes if change.action == "replace_function")
    line = Functional.forward.__code__.co_firstlineno + 2
    assert change.arguments["line"] == line
    assert change.arguments["file"].endswith("test_prescribe.py")
    assert f"line {line}" in change.text
    assert final_loss(Functional(), found, x, y) < 0.5


def test_a_spec_is_drawn_anew_for_each_seed() -> None:
    x, y = batch()
    spec = {
        "input": {"shape": [16]},
        "layers": [
            {"repeat": 8, "layers": [{"type": "Linear", "out_features": 32}, {"type": "Sigmoid"}]},
            {"type": "Linear", "out_features": 4},
        ],
    }
    found = prescribed(spec, x, y)
    assert found.outcome == "found"
    assert final_loss(build(from_python(ModelSpec, spec), seed=99), found, x, y) < 0.5


def test_constant_weights_are_drawn_and_nothing_else_is_changed() -> None:
    x, y = batch()
    model = chain(nn.ReLU, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    found = prescribed(model, x, y)
    assert found.outcome == "found"
    assert "redraw_weights" in actions(found)
    assert "replace_activation" not in actions(found)


def test_large_inputs_are_standardised_in_prepare() -> None:
    x, y = batch()
    x = 1000 * x + 5000
    found = prescribed(chain(nn.ReLU, 2), x, y, optimizer=Sgd(type="sgd", lr=0.01))
    assert found.outcome == "found"
    assert "standardise_inputs" in actions(found)
    assert found.code is not None
    assert "def prepare(inputs, targets):" in found.code
    assert final_loss(chain(nn.ReLU, 2), found, x, y) < 0.5


def test_a_rate_that_diverges_is_replaced_and_nothing_else_is_changed() -> None:
    x, y = batch()
    found = prescribed(chain(nn.ReLU, 2), x, y, optimizer=Sgd(type="sgd", lr=300.0))
    assert found.outcome == "found"
    assert found.optimizer is not None
    assert found.optimizer.lr < 300
    assert "set_optimizer" in actions(found)


def test_a_network_that_learns_needs_nothing() -> None:
    x, y = batch()
    found = prescribed(chain(nn.ReLU, 2), x, y)
    assert (found.outcome, found.changes, found.code) == ("not_needed", (), None)
    assert found.reason is not None


def test_without_a_trial_nothing_is_tried() -> None:
    x, y = batch()
    model = chain(nn.ReLU, 1)
    settings = InspectionSettings()
    s = first_pass(Subject(model, Batch((x,), lambda _output: y, False, ""), 0), settings, device=CPU)
    budget = ProbeBudget(max_steps=10, max_seconds=600)
    found = prescribe(
        Patient.of(s, Task.of(s)), inspect(model, x, y), (), Trial(status="undetermined", reason="disabled"),
        declared=None, budget=budget,
    )  # fmt: skip
    assert (found.outcome, found.reason, budget.steps_run) == ("not_tried", "disabled", 0)


def test_the_budget_is_kept() -> None:
    x, y = batch()
    found = prescribed(chain(nn.Sigmoid, 8), x, y, max_steps=3)
    assert found.outcome in ("not_found", "not_tried")
    assert found.reason is not None
    assert "budget" in found.reason


def test_the_callers_model_is_left_as_it_was() -> None:
    x, y = batch()
    model = chain(nn.Sigmoid, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prescribed(model, x, y)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert isinstance(model[1], nn.Sigmoid)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_scripted_model_gets_changes_of_weights_and_rates_only() -> None:
    x, y = batch()
    with pytest.warns(DeprecationWarning, match="jit"):
        scripted = torch.jit.script(chain(nn.Tanh, 12))
    found = prescribed(scripted, x, y)
    assert found.outcome == "found"
    assert set(actions(found)) <= {"initialize", "set_optimizer", "scale_weights"}
    with pytest.warns(DeprecationWarning, match="jit"):
        again = torch.jit.script(chain(nn.Tanh, 12))
    assert final_loss(again, found, x, y) < 0.7


def test_a_softmax_in_front_of_cross_entropy_is_removed() -> None:
    x, y = batch()
    model = nn.Sequential(*chain(nn.ReLU, 2), nn.Softmax(dim=1))
    found = prescribed(model, x, y, optimizer=Sgd(type="sgd", lr=0.01))
    assert found.outcome == "found"
    assert "remove_output_activation" in actions(found)


def test_a_model_that_cannot_be_copied_is_not_an_error() -> None:
    x, y = batch()

    class Uncopyable(Functional):
        def __deepcopy__(self, memo: object) -> None:
            raise RuntimeError("no copies")

    found = prescribed(Uncopyable(), x, y)
    assert found.outcome == "not_tried"
    assert found.reason is not None
    assert "no copies" in found.reason
