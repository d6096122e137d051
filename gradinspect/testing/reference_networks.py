"""The reference set: healthy networks that pass, and sick ones whose rule and cause are known by construction.

Each is drawn from a fixed seed. docs/sick-networks.md lists the findings about them, and tests check that it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal  # Any: options of inspect

import torch
from torch import nn
from torch.nn import functional

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.policy import Policy, Severity
from gradinspect.engine.network.fixed_loss import CustomLoss, LossValue
from gradinspect.engine.network.reproducible import seeded
from gradinspect.inspection.local import inspect
from gradinspect.rules.blame import Cause
from gradinspect.testing import networks as net
from gradinspect.testing.defects import (
    confident,
    dead_biases,
    exploding_recurrence,
    frozen_layer,
    nan_weight,
    shrunken,
)

Data = Literal["flat", "images", "tokens", "long"]
CLASSES = 10
INFERRED = Policy(name="inferred", verdicts="inferred")


@dataclass(frozen=True)
class Reference:
    """One network with its batch.

    Attributes:
        what: its description.
        make: builds it.
        data: the kind of batch.
        batch: draws inputs and targets, in place of `data`.
        options: arguments of `inspect`.
    """

    what: str
    make: Callable[[], nn.Module]
    data: Data = "flat"
    batch: Callable[[], tuple[torch.Tensor, torch.Tensor]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sick(Reference):
    """A network with one defect.

    Attributes:
        rule: the rule that must fire.
        severity: the severity of its finding.
        cause: the cause that it must name, for rules that name one.
    """

    rule: str = ""
    severity: Severity = "fail"
    cause: Cause | None = None


def inspect_reference(reference: Reference, *, loss_factor: float = 1.0) -> Report:
    """Draw a network and its batch from seed 0, and judge it by the rules alone, without a trial.

    Args:
        reference: the network.
        loss_factor: multiplies the loss. Unless it is 1, the loss is a custom one, so that rules about the expected
            value of a named loss are not judged.
    """
    with seeded(0, torch.device("cpu")):
        model, inputs, targets = draw_reference(reference)
        options = {"trial": "off", "policy": INFERRED, **reference.options}
        if loss_factor != 1.0:
            options["loss"] = _multiplied(options.get("loss", "cross_entropy"), loss_factor)
        return inspect(model, inputs, targets, **options)


def draw_reference(reference: Reference) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Draw a network, its inputs and its targets from the global random state."""
    model = reference.make()
    return model, *(reference.batch() if reference.batch is not None else _drawn(reference.data, model))


def _drawn(data: Data, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = _inputs(data)
    return inputs, torch.randint(0, net.VOCABULARY if isinstance(model, net.Transformer) else CLASSES, inputs.shape[:1])


def _inputs(data: Data) -> torch.Tensor:
    match data:
        case "tokens":
            return torch.randint(0, net.VOCABULARY, (32, 8))
        case "long":
            return torch.randint(0, net.VOCABULARY, (32, 60))
        case "images":
            return torch.randn(64, 3, 16, 16)
        case "flat":
            return torch.randn(128, 64)


def _multiplied(name: str | CustomLoss, factor: float) -> CustomLoss:
    def loss(output: torch.Tensor, target: torch.Tensor | None) -> LossValue:
        assert target is not None
        if callable(name):
            value = name(output, target)
            return factor * value if isinstance(value, torch.Tensor) else {key: factor * value[key] for key in value}
        if name == "mse":
            return factor * functional.mse_loss(output, target)
        return factor * functional.cross_entropy(output, target)

    return loss


HEALTHY: dict[str, Reference] = {
    "relu_he_6": Reference("6 ReLU layers, He", lambda: net.chain(nn.ReLU, net.he)),
    "relu_he_30": Reference("30 ReLU layers, He", lambda: net.chain(nn.ReLU, net.he, depth=30)),
    "relu_torch_default_3": Reference("3 ReLU layers, torch's defaults", lambda: net.chain(nn.ReLU, None, depth=3)),
    "tanh_xavier_10": Reference("10 tanh layers, Xavier", lambda: net.chain(nn.Tanh, nn.init.xavier_normal_, depth=10)),
    "gelu_he": Reference("6 GELU layers, He", lambda: net.chain(nn.GELU, net.he)),
    "selu_torch_default": Reference("6 SELU layers, torch's defaults", lambda: net.chain(nn.SELU, None)),
    "linear_orthogonal_20": Reference(
        "20 linear layers, orthogonal", lambda: net.chain(None, nn.init.orthogonal_, depth=20)
    ),
    "batch_norm_10": Reference(
        "10 ReLU layers with BatchNorm", lambda: net.chain(nn.ReLU, net.he, depth=10, norm=nn.BatchNorm1d)
    ),
    "layer_norm_10": Reference(
        "10 GELU layers with LayerNorm", lambda: net.chain(nn.GELU, None, depth=10, norm=nn.LayerNorm)
    ),
    "one_hidden_layer": Reference("1 ReLU layer", lambda: net.chain(nn.ReLU, None, depth=1)),
    "resnet": Reference("ResNet with BatchNorm", net.resnet, "images"),
    "resnet_zero_gamma": Reference("ResNet, last γ of each block 0", lambda: net.resnet(zero_gamma=True), "images"),
    "transformer_pre_norm": Reference("pre-norm transformer of 3 blocks", net.Transformer, "tokens"),
    "lstm": Reference("LSTM over 8 steps", lambda: net.Recurrent(nn.LSTM), "tokens"),
    "gru": Reference("GRU over 8 steps", lambda: net.Recurrent(nn.GRU), "tokens"),
    "rnn": Reference("tanh RNN over 8 steps", lambda: net.Recurrent(nn.RNN), "tokens"),
}

SICK: dict[str, Sick] = {
    # depth × activation × init
    "sigmoid_xavier_20": Sick(
        "20 sigmoid layers, Xavier", lambda: net.chain(nn.Sigmoid, nn.init.xavier_normal_, depth=20),
        rule="vanishing_signal", cause="activation_slope",
    ),
    "sigmoid_default_10": Sick(
        "10 sigmoid layers, torch's defaults", lambda: net.chain(nn.Sigmoid, None, depth=10),
        rule="vanishing_signal", cause="activation_slope",
    ),
    "sigmoid_layer_norm_20": Sick(
        "20 sigmoid layers with LayerNorm",
        lambda: net.chain(nn.Sigmoid, nn.init.xavier_normal_, depth=20, norm=nn.LayerNorm),
        rule="vanishing_signal", cause="activation_slope",
    ),
    "relu_xavier_30": Sick(
        "30 ReLU layers, Xavier", lambda: net.chain(nn.ReLU, nn.init.xavier_normal_, depth=30),
        rule="vanishing_signal", severity="warn", cause="weight_scale",
    ),
    "relu_default_30": Sick(
        "30 ReLU layers, torch's defaults", lambda: net.chain(nn.ReLU, None, depth=30),
        rule="vanishing_signal", cause="weight_scale",
    ),
    "relu_tiny_weights": Sick(
        "10 ReLU layers, N(0, 0.01²)", lambda: net.chain(nn.ReLU, net.normal(0.01), depth=10),
        rule="vanishing_signal", cause="weight_scale",
    ),
    "tanh_tiny_weights": Sick(
        "8 tanh layers, N(0, 0.01²)", lambda: net.chain(nn.Tanh, net.normal(0.01), depth=8),
        rule="vanishing_signal", cause="weight_scale",
    ),
    "tanh_default_30": Sick(
        "30 tanh layers, torch's defaults", lambda: net.chain(nn.Tanh, None, depth=30),
        rule="vanishing_signal", cause="weight_scale",
    ),
    "linear_slightly_small_250": Sick(
        "250 linear layers, orthogonal × 0.95",
        lambda: net.changed(net.chain(None, nn.init.orthogonal_, depth=250, width=32), shrunken),
        rule="vanishing_signal", severity="warn", cause="depth",
    ),
    "relu_large_weights": Sick(
        "15 ReLU layers, N(0, 0.5²)", lambda: net.chain(nn.ReLU, net.normal(0.5), depth=15),
        rule="exploding_signal", cause="weight_scale",
    ),
    "vanishing_variance": Sick(
        "8 ReLU layers, N(0, 0.03²)", lambda: net.chain(nn.ReLU, net.normal(0.03), depth=8),
        rule="poor_initialization",
    ),
    "sigmoid_uneven": Sick(
        "6 sigmoid layers, Xavier; SGD", lambda: net.chain(nn.Sigmoid, nn.init.xavier_normal_, depth=6),
        options={"optimizer": {"type": "sgd", "lr": 0.1}}, rule="uneven_gradients",
    ),
    # normalisation: missing, or without skip connections
    "batch_norm_60_without_skips": Sick(
        "60 ReLU layers with BatchNorm, no skips",
        lambda: net.chain(nn.ReLU, net.he, depth=60, norm=nn.BatchNorm1d),
        rule="exploding_signal", cause="normalisation",
    ),
    "residual_without_norm_30": Sick(
        "30 residual blocks without normalisation", lambda: net.residual_chain(30, net.he),
        rule="exploding_signal", cause="residual_scale",
    ),
    # dead and saturated units
    "all_units_dead": Sick(
        "6 ReLU layers, all biases −30", lambda: net.chain(nn.ReLU, net.he, bias=dead_biases(1.0)),
        rule="vanishing_signal", cause="activation_slope",
    ),
    "some_dead": Sick(
        "3 ReLU layers, 40 % of biases −30", lambda: net.chain(nn.ReLU, net.he, depth=3, bias=dead_biases(0.4)),
        rule="dead_units", severity="warn",
    ),
    "most_dead": Sick(
        "3 ReLU layers, 70 % of biases −30", lambda: net.chain(nn.ReLU, net.he, depth=3, bias=dead_biases(0.7)),
        rule="dead_units",
    ),
    "saturated_tanh": Sick(
        "6 tanh layers, N(0, 1)", lambda: net.chain(nn.Tanh, net.normal(1.0)), rule="saturated_activation"
    ),
    "zero_weights": Sick(
        "6 ReLU layers, zeros", lambda: net.chain(nn.ReLU, nn.init.zeros_), rule="zero_gradient"
    ),
    # recurrence
    "rnn_exploding": Sick(
        "ReLU RNN over 60 steps, orthogonal × 2.5",
        lambda: net.changed(net.Recurrent(nn.RNN, nonlinearity="relu"), exploding_recurrence), "long",
        rule="exploding_signal", cause="recurrence",
    ),
    "rnn_forgetting": Sick(
        "tanh RNN over 60 steps, torch's defaults", lambda: net.Recurrent(nn.RNN), "long",
        rule="vanishing_signal", severity="warn", cause="recurrence",
    ),
    # mistakes
    "unused_head": Sick("a head that forward() forgets", net.WithUnusedHead, rule="unused_parameter", severity="warn"),
    "frozen_by_mistake": Sick(
        "a frozen layer in 6", lambda: net.changed(net.chain(nn.ReLU, net.he), frozen_layer),
        rule="frozen_parameter", severity="info",
    ),
    "nan_weight": Sick(
        "one weight NaN", lambda: net.changed(net.chain(nn.ReLU, net.he), nan_weight), rule="non_finite"
    ),
    "confident_head": Sick(
        "head × 30", lambda: net.changed(net.chain(nn.ReLU, net.he), confident), rule="initial_loss", severity="warn"
    ),
    # what was declared about training
    "learning_rate_too_large": Sick(
        "6 ReLU layers, He; SGD with lr 10⁴", lambda: net.chain(nn.ReLU, net.he),
        options={"optimizer": {"type": "sgd", "lr": 1e4}}, rule="update_ratio",
    ),
    "learning_rate_too_small": Sick(
        "6 ReLU layers, He; SGD with lr 10⁻⁹", lambda: net.chain(nn.ReLU, net.he),
        options={"optimizer": {"type": "sgd", "lr": 1e-9}}, rule="update_ratio",
    ),
    "float16_underflow": Sick(
        "6 ReLU layers, He; float16, loss scale 10⁻⁷", lambda: net.chain(nn.ReLU, net.he),
        options={"precision": {"intended": "float16", "loss_scale": 1e-7}}, rule="low_precision_underflow",
    ),
    "float16_overflow": Sick(
        "6 ReLU layers, He; float16, loss scale 10⁹", lambda: net.chain(nn.ReLU, net.he),
        options={"precision": {"intended": "float16", "loss_scale": 1e9}}, rule="low_precision_overflow",
    ),
}  # fmt: skip
