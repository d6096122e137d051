"""An inspection restores the caller's model, gradients, modes, hooks, buffers and random state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.network.reproducible import generator, ordinary_graphs, seeded
from tests.support.networks.inspected import inspect, random, scripted

X, Y = random(12, 6, dtype=torch.float32), torch.arange(12) % 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_weights_buffers_and_modes_are_restored(mode: str) -> None:
    model = network()
    model[1].eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    inspect(model, X, Y, mode=mode)  # type: ignore[arg-type]  # one of the two modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes


def test_a_buffer_that_the_model_replaces_is_restored() -> None:
    class Counting(nn.Module):
        calls: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.body = network()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls = self.calls + 1
            out: torch.Tensor = self.body(x)
            return out

    model = Counting()
    before = model.calls
    inspect(model, X, Y)
    assert model.calls is before
    assert float(before) == 0.0


def test_a_scripted_model_that_was_trained_in_this_process_has_the_signals_of_a_fresh_one() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3))
    fresh = inspect(scripted(model), X, Y)
    used = scripted(model)
    for _ in range(3):  # the profiling executor compiles a plan on the second call
        nn.functional.cross_entropy(used(X), Y).backward()
    used.zero_grad()
    assert inspect(used, X, Y).layers == fresh.layers
    assert all(row.signal is not None for row in fresh.layers)


def test_existing_gradients_are_restored() -> None:
    model = network()
    gradients = [torch.full_like(parameter, 7.0) for parameter in model.parameters()]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    inspect(model, X, Y)
    assert all(parameter.grad is gradient for parameter, gradient in zip(model.parameters(), gradients, strict=True))
    assert all(bool((gradient == 7.0).all()) for gradient in gradients)


def test_no_gradients_are_left_behind() -> None:
    model = network()
    inspect(model, X, Y)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_global_random_state_does_not_change() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    inspect(network_without_drawing(), X, Y)
    assert torch.equal(torch.rand(3), expected)


def network_without_drawing() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return network()


def test_the_callers_hooks_stay_and_ours_are_removed() -> None:
    model, seen = network(), []
    handle = model[0].register_forward_hook(lambda *_: seen.append("forward"))
    model.get_parameter("0.weight").register_post_accumulate_grad_hook(lambda _p: seen.append("gradient"))
    inspect(model, X, Y)
    seen.clear()
    model(X).sum().backward()
    assert seen == ["forward", "gradient"]
    handle.remove()
    assert not model.get_parameter("0.bias")._post_accumulate_grad_hooks


def test_frozen_parameters_stay_frozen() -> None:
    model = network()
    model[0].requires_grad_(False)
    inspect(model, X, Y)
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True, True, True, True]


def test_the_model_is_restored_when_the_backward_pass_fails() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(_context: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(_context: object, _gradient: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("this derivative fails")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = Broken.apply(self.body(x))  # type: ignore[no-untyped-call]  # untyped in torch
            return out

    model = Model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((RuntimeError, InspectionError), match="this derivative fails"):
        inspect(model, X, Y)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert not model.body.get_parameter("0.weight")._post_accumulate_grad_hooks


def test_dropout_masks_depend_on_the_seed_only() -> None:
    reports = [inspect(network(), X, Y, seed=seed) for seed in (1, 1, 2)]
    norms = [report.summary.total_grad_norm for report in reports]
    assert norms[0] == norms[1] != norms[2]


def test_torchscripts_profiling_mode_is_restored() -> None:
    before = torch._C._jit_set_profiling_mode(True)
    try:
        inspect(scripted(network()), X, Y)
        assert torch._C._jit_set_profiling_mode(True)
        with pytest.raises(KeyError), ordinary_graphs():
            raise KeyError
        assert torch._C._jit_set_profiling_mode(True)
    finally:
        torch._C._jit_set_profiling_mode(before)


def test_generators_differ_by_seed_and_purpose_and_are_repeatable() -> None:
    draws = {
        (seed, purpose): torch.rand(4, generator=generator(seed, purpose)).tolist()
        for seed in (0, 1, 2**63 - 1)
        for purpose in ("inputs", "target", "cotangent")
    }
    assert len(set(map(tuple, draws.values()))) == len(draws)
    assert torch.rand(4, generator=generator(0, "inputs")).tolist() == draws[0, "inputs"]


def test_the_random_state_is_restored_when_the_block_fails() -> None:
    torch.manual_seed(9)
    state = torch.random.get_rng_state()
    with pytest.raises(IndexError), seeded(1, torch.device("cpu")):
        torch.rand(3)[7]
    assert torch.equal(torch.random.get_rng_state(), state)


class Stateful(nn.Module):
    """Keeps a hidden state with its graph, a count, a list, a tensor that it overwrites, and makes a new attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.hidden: torch.Tensor | None = None
        self.count, self.history = 0, [1]
        self.running = torch.zeros(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        self.hidden = out.mean(0) if self.hidden is None else out.mean(0) + 0.5 * self.hidden
        self.count += 1
        self.history.append(2)
        self.running.add_(1)
        self.latest = out
        return out + self.hidden


def test_attributes_and_hidden_states_are_restored() -> None:
    model = Stateful()
    for _ in range(2):  # with the graph of the first one, the second could not go backwards
        inspect(model, X, Y)
    assert model.hidden is None
    assert (model.count, model.history) == (0, [1])
    assert float(model.running.abs().sum()) == 0.0
    assert not hasattr(model, "latest")


class ScriptedState(nn.Module):
    """Replaces a buffer and a hidden state in TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.calls: torch.Tensor  # here and not on the class, where TorchScript reads annotations
        self.register_buffer("calls", torch.zeros(3))
        self.hidden = torch.zeros(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        self.calls = self.calls + out.mean(0)
        self.hidden = self.hidden + out.mean(0)
        result: torch.Tensor = out + self.calls + self.hidden
        return result


def test_what_a_script_assigns_is_restored() -> None:
    model = scripted(ScriptedState())
    for _ in range(2):
        inspect(model, X, Y)
    for name in ("calls", "hidden"):
        value = getattr(model, name)
        assert value.grad_fn is None
        assert float(value.abs().sum()) == 0.0


def test_gradients_of_tensors_outside_the_model_are_restored() -> None:
    other, weight = nn.Linear(3, 1), torch.ones(12, 1, requires_grad=True)
    given = torch.ones_like(other.weight)
    other.weight.grad = given.clone()
    inspect(network(), X, Y, loss=lambda output, _target: (weight * other(output)).sum())
    assert other.weight.grad is not None
    assert torch.equal(other.weight.grad, given)
    assert (other.bias.grad, weight.grad) == (None, None)


def test_gradients_of_layers_that_no_module_registers_are_restored() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(6, 6), nn.Tanh()]
            self.head = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
            out: torch.Tensor = self.head(x)
            return out

    model = Listed()
    inspect(model, X, Y)
    assert [parameter.grad for parameter in model.layers[0].parameters()] == [None, None]
