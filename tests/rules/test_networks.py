"""Real networks through the real engine: the healthy ones pass, the sick ones fail for the right reason.

Each network is drawn once from a fixed seed; every threshold is at least a third away from what healthy draws show.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect import inspect
from gradinspect.contracts.report import Report
from gradinspect.testing import networks as net

FLAT, IMAGES, TOKENS = "flat", "images", "tokens"


def batch(kind: str) -> torch.Tensor:
    if kind == TOKENS:
        return torch.randint(0, 65, (32, 8))
    return torch.randn(64, 3, 16, 16) if kind == IMAGES else torch.randn(128, 64)


def inspected(make: Callable[[], nn.Module], kind: str = FLAT, **options: Any) -> Report:  # Any: options of inspect
    torch.manual_seed(0)
    model, inputs = make(), batch(kind)
    targets = torch.randint(0, 65 if isinstance(model, net.Transformer) else 10, (inputs.shape[0],))
    return inspect(model, inputs, targets, **options)


HEALTHY: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "relu_he_6": (lambda: net.chain(nn.ReLU, net.he), FLAT),
    "relu_he_30": (lambda: net.chain(nn.ReLU, net.he, depth=30), FLAT),
    "relu_torch_default_3": (lambda: net.chain(nn.ReLU, None, depth=3), FLAT),
    "tanh_xavier_10": (lambda: net.chain(nn.Tanh, nn.init.xavier_normal_, depth=10), FLAT),
    "gelu_he": (lambda: net.chain(nn.GELU, net.he), FLAT),
    "selu_torch_default": (lambda: net.chain(nn.SELU, None), FLAT),
    "linear_orthogonal_20": (lambda: net.chain(None, nn.init.orthogonal_, depth=20), FLAT),
    "batch_norm_10": (lambda: net.chain(nn.ReLU, net.he, depth=10, norm=nn.BatchNorm1d), FLAT),
    "layer_norm_10": (lambda: net.chain(nn.GELU, None, depth=10, norm=nn.LayerNorm), FLAT),
    "one_hidden_layer": (lambda: net.chain(nn.ReLU, None, depth=1), FLAT),
    "resnet": (net.resnet, IMAGES),
    "resnet_zero_gamma": (lambda: net.resnet(zero_gamma=True), IMAGES),
    "transformer_pre_norm": (net.Transformer, TOKENS),
    "lstm": (lambda: net.Recurrent(nn.LSTM), TOKENS),
    "gru": (lambda: net.Recurrent(nn.GRU), TOKENS),
    "rnn": (lambda: net.Recurrent(nn.RNN), TOKENS),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_passes(name: str) -> None:
    report = inspected(*HEALTHY[name])
    assert [f"{finding.rule}: {finding.message}" for finding in report.findings if finding.severity != "info"] == []
    assert report.verdict == "pass"


@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("name", ["relu_he_6", "resnet", "transformer_pre_norm"])
def test_a_healthy_network_passes_whatever_its_loss_is_multiplied_by(name: str, factor: float) -> None:
    def loss(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        assert target is not None
        return factor * nn.functional.cross_entropy(output, target)

    assert inspected(*HEALTHY[name], loss=loss).verdict == "pass"


def dead_biases(share: float) -> Callable[[torch.Tensor], Any]:
    return lambda bias: bias[: int(share * bias.numel())].fill_(-30.0)


def nan_weight(model: nn.Module) -> None:
    model[4].weight[0, 0] = float("nan")  # type: ignore[index, union-attr, operator]  # a Sequential of Linear layers


def frozen(model: nn.Module) -> None:
    model[2].requires_grad_(False)  # type: ignore[index, union-attr, operator]  # likewise


def confident(model: nn.Module) -> None:
    model[-1].weight.mul_(30)  # type: ignore[index, union-attr, operator]  # likewise


def shrunken(model: nn.Module) -> None:
    for module in model:  # type: ignore[attr-defined]  # likewise
        if isinstance(module, nn.Linear):
            module.weight.mul_(0.95)


def exploding(model: nn.Module) -> None:
    nn.init.orthogonal_(model.cell.weight_hh_l0, gain=2.5)  # type: ignore[union-attr, arg-type]  # a Recurrent


# name: (network, input, options), the rule that must fire, its severity, and the cause it must name
SICK: dict[str, tuple[tuple[Any, ...], str, str, str | None]] = {
    "sigmoid_xavier_20": (
        (lambda: net.chain(nn.Sigmoid, nn.init.xavier_normal_, depth=20), FLAT, {}),
        "vanishing_signal", "fail", "activation_slope",
    ),
    "sigmoid_default_10": (
        (lambda: net.chain(nn.Sigmoid, None, depth=10), FLAT, {}), "vanishing_signal", "fail", "activation_slope",
    ),
    "sigmoid_layer_norm_20": (
        (lambda: net.chain(nn.Sigmoid, nn.init.xavier_normal_, depth=20, norm=nn.LayerNorm), FLAT, {}),
        "vanishing_signal", "fail", "activation_slope",
    ),
    "relu_xavier_30": (
        (lambda: net.chain(nn.ReLU, nn.init.xavier_normal_, depth=30), FLAT, {}),
        "vanishing_signal", "warn", "weight_scale",
    ),
    "relu_tiny_weights": (
        (lambda: net.chain(nn.ReLU, net.normal(0.01), depth=10), FLAT, {}), "vanishing_signal", "fail", "weight_scale",
    ),
    "tanh_tiny_weights": (
        (lambda: net.chain(nn.Tanh, net.normal(0.01), depth=8), FLAT, {}), "vanishing_signal", "fail", "weight_scale",
    ),
    "tanh_default_30": (
        (lambda: net.chain(nn.Tanh, None, depth=30), FLAT, {}), "vanishing_signal", "fail", "weight_scale",
    ),
    "linear_slightly_small_250": (
        (lambda: net.changed(net.chain(None, nn.init.orthogonal_, depth=250, width=32), shrunken), FLAT, {}),
        "vanishing_signal", "warn", "depth",
    ),
    "all_units_dead": (
        (lambda: net.chain(nn.ReLU, net.he, bias=dead_biases(1.0)), FLAT, {}),
        "vanishing_signal", "fail", "activation_slope",
    ),
    "relu_large_weights": (
        (lambda: net.chain(nn.ReLU, net.normal(0.5), depth=15), FLAT, {}), "exploding_signal", "fail", "weight_scale",
    ),
    "batch_norm_60_without_skips": (
        (lambda: net.chain(nn.ReLU, net.he, depth=60, norm=nn.BatchNorm1d), FLAT, {}),
        "exploding_signal", "fail", "normalisation",
    ),
    "residual_without_norm_30": (
        (lambda: net.residual_chain(30, net.he), FLAT, {}), "exploding_signal", "fail", "residual_scale",
    ),
    "rnn_exploding": (
        (lambda: net.changed(net.Recurrent(nn.RNN, nonlinearity="relu"), exploding), "long", {}),
        "exploding_signal", "fail", "recurrence",
    ),
    "rnn_forgetting": ((lambda: net.Recurrent(nn.RNN), "long", {}), "vanishing_signal", "warn", "recurrence"),
    "sigmoid_uneven": (
        (lambda: net.chain(nn.Sigmoid, nn.init.xavier_normal_, depth=6), FLAT, {}), "uneven_gradients", "fail", None,
    ),
    "vanishing_variance": (
        (lambda: net.chain(nn.ReLU, net.normal(0.03), depth=8), FLAT, {}), "poor_initialization", "fail", None,
    ),
    "quarter_dead": (
        (lambda: net.chain(nn.ReLU, net.he, depth=3, bias=dead_biases(0.4)), FLAT, {}), "dead_units", "warn", None,
    ),
    "most_dead": (
        (lambda: net.chain(nn.ReLU, net.he, depth=3, bias=dead_biases(0.7)), FLAT, {}), "dead_units", "fail", None,
    ),
    "saturated_tanh": (
        (lambda: net.chain(nn.Tanh, net.normal(1.0)), FLAT, {}), "saturated_activation", "fail", None,
    ),
    "zero_weights": ((lambda: net.chain(nn.ReLU, nn.init.zeros_), FLAT, {}), "zero_gradient", "fail", None),
    "unused_head": ((net.WithUnusedHead, FLAT, {}), "unused_parameter", "warn", None),
    "frozen_by_mistake": (
        (lambda: net.changed(net.chain(nn.ReLU, net.he), frozen), FLAT, {}), "frozen_parameter", "info", None,
    ),
    "nan_weight": ((lambda: net.changed(net.chain(nn.ReLU, net.he), nan_weight), FLAT, {}), "non_finite", "fail", None),
    "confident_head": (
        (lambda: net.changed(net.chain(nn.ReLU, net.he), confident), FLAT, {}), "initial_loss", "warn", None,
    ),
    "learning_rate_too_large": (
        (lambda: net.chain(nn.ReLU, net.he), FLAT, {"optimizer": {"type": "sgd", "lr": 1e4}}),
        "update_ratio", "fail", None,
    ),
    "learning_rate_too_small": (
        (lambda: net.chain(nn.ReLU, net.he), FLAT, {"optimizer": {"type": "sgd", "lr": 1e-9}}),
        "update_ratio", "fail", None,
    ),
    "float16_underflow": (
        (lambda: net.chain(nn.ReLU, net.he), FLAT, {"precision": {"intended": "float16", "loss_scale": 1e-7}}),
        "low_precision_underflow", "fail", None,
    ),
    "float16_overflow": (
        (lambda: net.chain(nn.ReLU, net.he), FLAT, {"precision": {"intended": "float16", "loss_scale": 1e9}}),
        "low_precision_overflow", "fail", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SICK)
def test_a_sick_network_is_told_what_ails_it(name: str) -> None:
    (make, kind, options), rule, severity, cause = SICK[name]
    torch.manual_seed(0)
    model = make()
    inputs = torch.randint(0, 65, (32, 60)) if kind == "long" else batch(kind)
    report = inspect(model, inputs, torch.randint(0, 10, (inputs.shape[0],)), **options)
    found = next((finding for finding in report.findings if finding.rule == rule), None)
    assert found is not None, [finding.rule for finding in report.findings]
    assert found.severity == severity, found.message
    if cause is not None:
        assert found.remedy is not None
        assert found.remedy.arguments["cause"] == cause, found.explanation
    if severity != "info":
        assert report.verdict in ("warn", "fail")


@pytest.mark.parametrize("name", ["relu_tiny_weights", "sigmoid_default_10", "tanh_tiny_weights", "relu_large_weights"])
def test_the_code_of_a_remedy_cures_the_network(name: str) -> None:
    (make, kind, _), rule, _, _ = SICK[name]
    torch.manual_seed(0)
    model, inputs, targets = make(), batch(kind), torch.randint(0, 10, (128,))
    found = next(finding for finding in inspect(model, inputs, targets).findings if finding.rule == rule)
    assert found.remedy is not None
    exec(compile(found.remedy.code or "", "remedy", "exec"), {"model": model})
    assert rule not in {finding.rule for finding in inspect(model, inputs, targets).findings}
