"""The block that a prescription prints: it runs as printed, and raises where it would change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.optimizers import Adam, Optimizer, Sgd
from gradinspect.contracts.report.actions import ACTIONS
from gradinspect.contracts.report.actions.action import WIDTH, literal
from gradinspect.contracts.report.prescription_code import action_of, prescription_code, with_code
from gradinspect.contracts.report.trial import Change, Prescription

ADAM = Adam(type="adam", lr=0.003)
HOSTILE = "fc\"'\n\\);import os\u202e" + "x" * 300


def change(action: str, **arguments: Any) -> Change:
    return Change(action=action, arguments=arguments)


def run(model: nn.Module, *changes: Change, optimizer: Optimizer = ADAM) -> dict[str, Any]:
    scope: dict[str, Any] = {"model": model}
    code = prescription_code(changes, optimizer)
    assert all(len(line) <= WIDTH for line in code.splitlines()), code
    assert code.isascii()
    exec(code, scope)
    return scope


def mlp(activation: type[nn.Module] = nn.Sigmoid) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 3))


class Functional(nn.Module):
    def __init__(self, *, has_softmax: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.has_softmax = has_softmax

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.sigmoid(self.first(x))
        x = self.second(x).sigmoid()
        x = self.head(x)
        return torch.softmax(x, dim=1) if self.has_softmax else x


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.lstm(x)[0][:, -1])
        return output


EXAMPLES: dict[str, tuple[dict[str, Any], type[nn.Module] | Any]] = {
    "set_optimizer": ({"optimizer": {"type": "adam", "lr": 0.003}}, mlp),
    "scale_learning_rates": ({"groups": [{"scale": 2.0, "parameters": ["0.weight"]}]}, mlp),
    "clip_gradients": ({"max_norm": 1.0}, mlp),
    "initialize": ({"scheme": "he"}, mlp),
    "scale_weights": ({"factors": {"0.weight": 2.0}}, mlp),
    "redraw_weights": ({"weights": ["0.weight"]}, mlp),
    "revive_units": ({"layers": ["0"]}, mlp),
    "orthogonal_recurrence": ({}, Wrapped),
    "set_forget_bias": ({}, Wrapped),
    "unfreeze": ({"parameters": ["0.weight"]}, lambda: frozen(mlp())),
    "replace_activation": ({"old": "sigmoid", "new": "relu"}, mlp),
    "replace_function": ({"old": "sigmoid", "new": "relu"}, Functional),
    "standardise_inputs": ({"mean": [1.0], "std": [2.0]}, mlp),
    "standardise_targets": ({"mean": [1.0], "std": [2.0]}, mlp),
    "remove_output_activation": (
        {"function": "softmax", "module": "5"}, lambda: nn.Sequential(*mlp(), nn.Softmax(dim=1)),
    ),
    "remove_output_function": ({"function": "softmax"}, lambda: Functional(has_softmax=True)),
    "scale_residual": ({"scale": 0.5}, lambda: residual()),
    "add_normalization": ({}, mlp),
    "add_skip_connections": ({"scale": 0.5}, mlp),
}  # fmt: skip


def frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def residual() -> nn.Module:
    from gradinspect.engine.network.modules import Residual

    return nn.Sequential(nn.Linear(4, 8), Residual({"0": nn.Linear(8, 8)}, scale=1.0, shortcut=None), nn.Linear(8, 3))


def test_every_action_has_an_example() -> None:
    assert set(EXAMPLES) == set(ACTIONS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_action_runs_as_printed_and_the_model_still_trains(name: str) -> None:
    arguments, make = EXAMPLES[name]
    model = make()
    scope = run(model, change(name, **arguments))
    inputs = torch.randn(6, 5, 4) if isinstance(model, Wrapped) else torch.randn(6, 4)
    targets = torch.zeros(6, dtype=torch.long)
    if "prepare" in scope:
        inputs, targets = scope["prepare"](inputs, targets)
    nn.functional.cross_entropy(scope["model"](inputs), targets.long()).backward()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    scope["optimizer"].step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_each_action_has_a_sentence(name: str) -> None:
    sentence = action_of(change(name, **EXAMPLES[name][0])).sentence()
    assert sentence.endswith(".")
    assert sentence[0].isupper()


NOTHING_TO_CHANGE: dict[str, dict[str, Any]] = {
    "scale_learning_rates": {"groups": [{"scale": 2.0, "parameters": ["nowhere"]}]},
    "initialize": {"scheme": "he"},
    "scale_weights": {"factors": {"nowhere": 2.0}},
    "redraw_weights": {"weights": ["nowhere"]},
    "revive_units": {"layers": ["nowhere"]},
    "orthogonal_recurrence": {},
    "set_forget_bias": {},
    "replace_activation": {"old": "sigmoid", "new": "relu"},
    "remove_output_activation": {"function": "softmax", "module": "0"},
    "scale_residual": {"scale": 0.5},
    "add_normalization": {},
    "add_skip_connections": {},
    "unfreeze": {"parameters": ["0.weight"]},
}


@pytest.mark.parametrize("name", NOTHING_TO_CHANGE)
def test_a_block_that_would_change_nothing_raises(name: str) -> None:
    with pytest.raises(LookupError):
        run(nn.Sequential(nn.BatchNorm1d(4)), change(name, **NOTHING_TO_CHANGE[name]))


def test_a_missing_module_is_named_by_its_class() -> None:
    with pytest.raises(LookupError, match=r"no torch\.nn\.Sigmoid found"):
        run(mlp(nn.ReLU), change("replace_activation", old="sigmoid", new="relu"))


def test_a_forward_pass_that_does_not_call_the_function_raises() -> None:
    model = mlp(nn.ReLU)
    run(model, change("replace_function", old="sigmoid", new="relu"))
    with pytest.raises(LookupError, match=r"does not call torch\.sigmoid"):
        model(torch.randn(2, 4))


def test_functional_activations_are_replaced_for_this_model_only() -> None:
    model, other = Functional(), Functional()
    other.load_state_dict(model.state_dict())
    x = torch.randn(5, 4)
    before = model(x)
    run(model, change("replace_function", old="sigmoid", new="relu", file="m.py", line=3))
    expected = other.head(torch.relu(other.second(torch.relu(other.first(x)))))
    assert torch.allclose(model(x), expected)
    assert torch.equal(other(x), before)


def test_only_the_last_softmax_is_removed() -> None:
    model = Functional(has_softmax=True)
    x = torch.randn(5, 4)
    run(model, change("remove_output_function", function="softmax"))
    assert not torch.allclose(model(x).sum(1), torch.ones(5))


class SigmoidOutput(Functional):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(super().forward(x))


def test_hidden_calls_are_replaced_and_the_output_is_removed_in_one_block() -> None:
    model = SigmoidOutput()
    run(
        model,
        change("remove_output_function", function="sigmoid", calls=3),
        change("replace_function", old="sigmoid", new="relu"),
    )
    x = torch.randn(5, 4)
    expected = model.head(torch.relu(model.second(torch.relu(model.first(x)))))
    assert torch.allclose(model(x), expected)


def test_an_output_function_keeps_its_call() -> None:
    model = Functional()
    run(model, change("replace_function", old="sigmoid", new="relu", calls=2, unless_last=True))
    hidden = model.second(torch.relu(model.first(torch.ones(1, 4)))).sigmoid()
    assert torch.allclose(model(torch.ones(1, 4)), model.head(hidden))


def test_per_feature_numbers_standardise_along_their_axis() -> None:
    x = torch.randn(64, 3, 5, 5) * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1) + 7
    mean, std = x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).tolist()
    scope = run(mlp(), change("standardise_inputs", mean=mean, std=std, axis=1, dimensions=4))
    prepared, _ = scope["prepare"](x, None)
    assert torch.allclose(prepared.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(prepared.std((0, 2, 3)), torch.ones(3), atol=1e-4)


def test_one_of_several_inputs_is_standardised() -> None:
    scope = run(mlp(), change("standardise_inputs", mean=[1.0], std=[2.0], position=1))
    (first, second), _ = scope["prepare"]((torch.ones(2), torch.full((2,), 5.0)), None)
    assert first.tolist() == [1.0, 1.0]
    assert second.tolist() == [2.0, 2.0]


def test_scaled_rates_become_parameter_groups() -> None:
    model = mlp()
    groups = [{"scale": 4.0, "parameters": ["0.weight", "0.bias"]}, {"scale": 0.5, "parameters": ["4.weight"]}]
    optimizer = run(model, change("scale_learning_rates", groups=groups), optimizer=Sgd(type="sgd", lr=0.1))[
        "optimizer"
    ]
    rates = {id(tensor): group["lr"] for group in optimizer.param_groups for tensor in group["params"]}
    assert rates[id(model[0].weight)] == pytest.approx(0.4)
    assert rates[id(model[4].weight)] == pytest.approx(0.05)
    assert rates[id(model[4].bias)] == pytest.approx(0.1)


def test_names_are_data_and_not_code() -> None:
    model = nn.Module()
    model.register_parameter("weight", nn.Parameter(torch.ones(2, 2)))
    with pytest.raises(LookupError):
        run(model, change("scale_weights", factors={HOSTILE: 2.0}))
    assert eval(literal(HOSTILE)) == HOSTILE


def test_a_long_hostile_name_is_found_where_it_exists() -> None:
    model = nn.Module()
    name = HOSTILE.replace(".", "")
    model.register_parameter(name, nn.Parameter(torch.ones(2, 2)))
    run(model, change("scale_weights", factors={name: 2.0}))
    assert dict(model.named_parameters())[name].sum() == 8


def test_hostile_file_names_stay_in_their_comment() -> None:
    run(Functional(), change("replace_function", old="sigmoid", new="relu", file="a\nraise SystemExit #", line=1))


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        ("exec", {}),
        ("initialize", {"scheme": "he\n"}),
        ("initialize", {"scheme": "he", "multiply_by": "2"}),
        ("clip_gradients", {"max_norm": 0.0}),
        ("replace_activation", {"old": "sigmoid", "new": "Sigmoid()"}),
        ("standardise_inputs", {"mean": [1.0, 2.0], "std": [1.0]}),
        ("scale_weights", {"factors": {"w": "1"}}),
        ("set_forget_bias", {"value": 1.0, "other": 1}),
    ],
)
def test_wrong_actions_and_arguments_are_refused(action: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=action):
        prescription_code([Change(action=action, arguments=arguments)], ADAM)


def test_clipping_works_in_a_loop_that_knows_nothing_of_it() -> None:
    model = mlp()
    optimizer = run(model, change("clip_gradients", max_norm=0.5), optimizer=Sgd(type="sgd", lr=1.0))["optimizer"]
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    (1e4 * model(torch.randn(6, 4)).square().sum()).backward()
    optimizer.step()
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.5, rel=1e-3)


def test_code_and_sentences_of_an_untrusted_prescription_are_made_anew() -> None:
    untrusted = Prescription(
        outcome="found", optimizer=ADAM, code="import os",
        changes=(Change(action="initialize", arguments={"scheme": "he"}, text="Call this number."),),
    )  # fmt: skip
    made = with_code(untrusted)
    assert made.code == prescription_code(untrusted.changes, ADAM)
    assert made.changes[0].text.startswith("Draw the weights")


def test_a_prescription_with_invalid_changes_is_not_served() -> None:
    untrusted = Prescription(outcome="found", optimizer=ADAM, code="x", changes=(Change(action="initialize"),))
    made = with_code(untrusted)
    assert (made.outcome, made.code, made.changes) == ("not_found", None, ())


def test_scripted_models_take_changes_of_weights_by_name() -> None:
    with pytest.warns(DeprecationWarning, match="jit"):
        scripted = torch.jit.script(mlp())
    before = scripted.state_dict()["0.weight"].clone()
    run(scripted, change("initialize", scheme="he", weights=["0.weight"], biases=["0.bias"]))
    assert not torch.equal(before, scripted.state_dict()["0.weight"])
    assert scripted.state_dict()["0.bias"].abs().sum() == 0
