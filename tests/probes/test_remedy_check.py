"""A remedy is tried on a fresh copy of a spec, and the finding states its effect."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradinspect import inspect
from gradinspect.contracts.document import from_python
from gradinspect.contracts.report.report import Finding, Measurements, Remedy, Report
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.engine.first_order.context import Budget
from gradinspect.engine.network.batch import make_batch
from gradinspect.engine.network.build import build
from gradinspect.engine.network.reproducible import seeded
from gradinspect.probes.remedies.remedy_check import MOST_REMEDIES, Trial, apply_remedy, check_remedies
from gradinspect.rules import DEFAULT_POLICY, rejudge, remedies_to_try
from gradinspect.rules.blame import Blame
from gradinspect.rules.remedies import remedy_for
from tests.support.networks.probed import classes, mlp, normal, section_input


def spec(activation: str = "ReLU", depth: int = 10, **weight: Any) -> dict[str, Any]:  # Any: JSON
    hidden = {"repeat": depth, "layers": [{"type": "Linear", "out_features": 64}, {"type": activation}]}
    document = {"input": {"shape": [32]}, "layers": [hidden, {"type": "Linear", "out_features": 10}]}
    return {**document, "init": {"weight": weight}} if weight else document


def built(document: dict[str, Any]) -> torch.nn.Module:
    return build(from_python(ModelSpec, document), seed=0)


def batch_of(document: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    read = from_python(ModelSpec, document)
    batch = make_batch(
        None, None, sample_input=read.input, vocabulary=None, loss="cross_entropy", dtype=torch.float32,
        device=torch.device("cpu"), seed=0,
    )  # fmt: skip
    output = built(document)(*batch.inputs)
    target = batch.target_for(output)
    assert target is not None
    return batch.inputs[0], target


def found(report: Report, rule: str) -> Finding:
    return next(finding for finding in report.findings if finding.rule == rule)


@pytest.mark.parametrize(
    ("document", "rule", "action"),
    [
        (spec(name="normal_", std=0.01), "vanishing_signal", "initialize"),
        (spec(name="normal_", std=0.6), "exploding_signal", "initialize"),
        (spec("Sigmoid"), "vanishing_signal", "replace_activation"),
        (spec("Tanh", name="normal_", std=0.01), "vanishing_signal", "initialize"),
    ],
)
def test_the_finding_of_a_spec_states_the_effect_of_its_remedy(
    document: dict[str, Any], rule: str, action: str
) -> None:
    finding = found(inspect(document), rule)
    assert finding.remedy is not None
    assert finding.remedy.action == action
    assert finding.remedy.checked_gain is not None
    assert 1e-3 < finding.remedy.checked_gain < 70
    assert "Tried on a fresh copy of the network" in finding.explanation
    assert "not enough" not in finding.explanation


def test_the_measured_effect_is_that_of_the_changed_network() -> None:
    document = spec(name="normal_", std=0.01)
    remedy = found(inspect(document), "vanishing_signal").remedy
    assert remedy is not None
    model = built(document)
    with seeded(0, torch.device("cpu")), torch.no_grad():
        assert apply_remedy(model, remedy)
    assert remedy.checked_gain == inspect(model, *batch_of(document)).layers[0].cumulative_backward_gain


def test_a_healthy_spec_is_built_once() -> None:
    report = inspect(spec(name="kaiming_normal_", nonlinearity="relu"))
    assert report.remedy_checks == ()


def test_a_module_is_never_copied_and_initialised_again() -> None:
    model = built(spec(name="normal_", std=0.01))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    report = inspect(model, torch.randn(128, 32), torch.randint(0, 10, (128,)))
    assert report.remedy_checks == ()
    assert found(report, "vanishing_signal").remedy is not None
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_trying_a_remedy_leaves_the_numbers_as_they_are() -> None:
    document = spec(name="normal_", std=0.01)
    with_check = inspect(document)
    alone = inspect(built(document), *batch_of(document))
    assert with_check.remedy_checks
    assert [row.backward_gain for row in with_check.layers] == [row.backward_gain for row in alone.layers]


def test_the_finding_says_when_a_remedy_does_not_suffice() -> None:
    """Redrawing weights cannot mend a signal when an untouched layer holds it back."""
    document = spec(name="normal_", std=0.01)
    report = inspect(document)
    (check,) = report.remedy_checks
    weak = report.model_copy(update={"remedy_checks": (check.model_copy(update={"cumulative_gain": 1e-5}),)})
    finding = found(rejudge(weak, DEFAULT_POLICY), "vanishing_signal")
    assert finding.remedy is not None
    assert finding.remedy.checked_gain == 1e-5
    assert finding.explanation.endswith("That is not enough by itself.")


SIGMOID_TO_RELU = remedy_for(Blame("activation_slope", "", (), 0.2))
DRAW = remedy_for(Blame("weight_scale", "", (), 0.01))
TABLES: dict[str, Any] = {
    "input": {"shape": [5], "dtype": "int64", "high": 9},
    "layers": [{"type": "Embedding", "num_embeddings": 9, "embedding_dim": 3}],
}


@pytest.mark.parametrize(
    ("document", "remedy", "applies"),
    [
        (spec(), DRAW, True),
        (TABLES, DRAW, False),
        (spec("Sigmoid"), SIGMOID_TO_RELU, True),
        (spec("GELU"), SIGMOID_TO_RELU, False),
        (spec(), Remedy(action="revive_units", code="raise AssertionError"), False),
        (spec(), Remedy(action="initialize"), False),
        (spec(), Remedy(action="scale_residual", arguments={"scale": 0.5}), False),
    ],
)
def test_only_what_a_remedy_can_change_is_changed(document: dict[str, Any], remedy: Remedy, applies: bool) -> None:
    model = built(document)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    assert apply_remedy(model, remedy) is applies
    changed = any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert changed is applies


def test_a_residual_scale_reaches_every_block() -> None:
    block = {"type": "Residual", "layers": [{"type": "Linear", "out_features": 32}, {"type": "ReLU"}]}
    model = built({"input": {"shape": [32]}, "layers": [block, block]})
    assert apply_remedy(model, Remedy(action="scale_residual", arguments={"scale": 0.25}))
    assert {module.scale for module in model.modules() if hasattr(module, "scale")} == {0.25}


def test_recurrent_gates_are_drawn_orthogonal() -> None:
    model = built({"input": {"shape": [5, 8]}, "layers": [{"type": "LSTM", "hidden_size": 8, "output": "last"}]})
    assert apply_remedy(model, remedy_for(Blame("recurrence", "", (), 0.5)))
    weight = next(parameter for name, parameter in model.named_parameters() if "weight_hh" in name)
    for gate in torch.split(weight.detach(), 8):
        assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)


def test_every_remedy_that_is_suggested_can_be_applied() -> None:
    report = inspect(spec("Sigmoid"))
    fields = {name: getattr(report, name) for name in Measurements.model_fields}
    remedies = remedies_to_try(Measurements.model_construct(**fields))
    assert [remedy.action for remedy in remedies] == ["replace_activation"]
    with torch.no_grad():
        assert all(apply_remedy(built(spec("Sigmoid")), remedy) for remedy in remedies)


def test_at_most_four_remedies_are_tried() -> None:
    s = section_input(mlp(4, 3), normal(6, 4), classes(3, 6), rebuild=lambda _seed: mlp(4, 3))
    trial = Trial.of(s, None)
    assert trial is not None
    assert len(check_remedies(trial, [DRAW] * 6, Budget(None))) == MOST_REMEDIES == 4
