"""The condition under which other remedies are tried, and the effect of rescaled gains on each layer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradinspect.probes.remedies.gain import LARGEST, rescaling_gains
from gradinspect.probes.remedies.probe import signal_fails
from tests.support.networks.probed import classes, glorot, mlp, normal, scripted, section_input


def gains_of(model: nn.Module) -> dict[str, float]:
    s = section_input(model, normal(200, 8), classes(3, 200))
    return {entry.name: gain for entry, gain in rescaling_gains(s).items()}


def variance(weight: torch.Tensor) -> float:
    """Compute σ_w² = fan_in·Var W."""
    return weight.shape[1] * float(weight.detach().var(unbiased=False))


def test_a_linear_layer_gets_the_gain_that_makes_its_weight_variance_one() -> None:
    model = mlp(8, 16, 16, 16, 3, activation=nn.Identity)
    found = gains_of(model)
    assert set(found) == {"2.weight", "4.weight"}  # neither the first layer nor the head
    for place in (2, 4):
        expected = 1 / math.sqrt(variance(model.get_parameter(f"{place}.weight")))
        assert found[f"{place}.weight"] == pytest.approx(expected, rel=1e-5)  # printed in six digits


def test_a_tanh_layer_is_rescaled_by_the_slopes_under_the_weights_rescaled_before_it() -> None:
    model = mlp(8, 32, 32, 32, 3)
    x = normal(200, 8)
    found = gains_of(model)
    with torch.no_grad():
        hidden = torch.tanh(model[0](x))
        first = nn.functional.linear(
            hidden, model.get_parameter("2.weight") * found["2.weight"], model.get_parameter("2.bias")
        )
        slope = float((1 - torch.tanh(first).square()).square().mean())
    expected = 1 / math.sqrt(variance(model.get_parameter("4.weight")) * slope)
    assert found["4.weight"] == pytest.approx(expected, rel=1e-4)


def test_measuring_gains_restores_the_weights() -> None:
    model = mlp(8, 16, 16, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gains_of(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_torchscript_file_gets_the_gains_of_its_eager_module() -> None:
    model = mlp(8, 16, 16, 3)
    assert gains_of(scripted(model)) == pytest.approx(gains_of(model))


def test_a_layer_that_passes_the_signal_on_already_keeps_its_weight() -> None:
    model = mlp(8, 16, 16, 3, activation=nn.Identity)
    with torch.no_grad():
        model.get_parameter("2.weight").mul_(1 / math.sqrt(variance(model.get_parameter("2.weight"))))
    assert gains_of(model) == {}


def test_a_gain_has_a_limit() -> None:
    model = mlp(8, 16, 16, 3, activation=nn.Identity)
    with torch.no_grad():
        model.get_parameter("2.weight").mul_(1e-6)
    assert gains_of(model) == {"2.weight": LARGEST}


def test_frozen_and_dead_layers_are_not_rescaled() -> None:
    model = mlp(8, 16, 16, 16, 3, activation=nn.ReLU)
    model.get_parameter("2.weight").requires_grad_(False)
    with torch.no_grad():
        model.get_parameter("2.bias").fill_(-100.0)  # every unit of the second layer is off: no slope reaches the third
    assert gains_of(model) == {}


def test_the_signal_fails_at_the_rules_thresholds() -> None:
    x, y = normal(200, 8), classes(3, 200)
    healthy = section_input(mlp(8, 16, 16, 3, activation=nn.ReLU), x, y)
    vanishing = section_input(glorot(mlp(8, *(16,) * 14, 3, activation=nn.Sigmoid)), x, y)
    model = mlp(8, *(16,) * 6, 3, activation=nn.Identity)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(20.0)
    exploding = section_input(model, x, y)
    assert [signal_fails(s) for s in (healthy, vanishing, exploding)] == [False, True, True]
