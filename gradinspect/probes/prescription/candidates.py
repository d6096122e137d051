"""The changes that may let a model learn: one function per kind, each from facts to steps that belong together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from gradinspect.contracts.nonlinearities import BY_NAME
from gradinspect.contracts.report.actions.data import StandardiseInputs, StandardiseTargets
from gradinspect.contracts.report.actions.functions import RemoveOutputFunction, ReplaceFunction, functions_of
from gradinspect.contracts.report.actions.modules import (
    AddNormalization,
    AddSkipConnections,
    OutputFunction,
    RemoveOutputActivation,
    Replaceable,
    ReplaceActivation,
    ScaleResidual,
    Unfreeze,
)
from gradinspect.contracts.report.actions.training import ClipGradients, RateGroup, ScaleLearningRates
from gradinspect.contracts.report.actions.weights import (
    Initialize,
    OrthogonalRecurrence,
    RedrawWeights,
    ReviveUnits,
    ScaleWeights,
)
from gradinspect.engine.network.modules import Residual
from gradinspect.probes.prescription.attempt import Plan, Step
from gradinspect.probes.prescription.facts import MOST_NAMES, Facts

STANDARD = (0.05, 20.0)  # standard deviations that initialisations take for granted, as in the rule input_scale
UNEVEN = 20.0  # a feature's standard deviation over the median's, from which each feature is standardised by itself
LEAST_SPREAD = 1e-2  # of the largest; chosen: features that hardly vary must not be blown up
MOST_FEATURES = 128
OFF_CENTRE = 3.0  # standard deviations by which a mean may be away from 0
SATURATED = 0.2  # as the rule warns
DEAD = 0.5  # of a layer's units
SHRINKS, GROWS = 1e-2, 1e2  # of the signal from the last layer to the first


@dataclass(frozen=True)
class Candidate:
    """Steps that belong together, and where they come in the order of cost.

    Attributes:
        is_direct: it mends a defect that was seen, and is tried before the general remedies.
        cost: 1 rates … 7 architecture.
    """

    plan: Plan
    cost: int
    is_direct: bool = False


def candidates(facts: Facts) -> list[Candidate]:
    """Return everything that may be tried, direct remedies first, then in order of cost."""
    found = [
        Candidate(plan, cost, is_direct)
        for make, cost, is_direct in _KINDS
        for plan in make(facts)
        if not facts.patient.is_scripted or all(step.action.is_in_place for step in plan)
    ]
    is_slope = _blamed(facts) == "activation_slope"  # then no initialisation helps, and another activation does

    def order(one: Candidate) -> tuple[bool, float]:
        replaces = any(isinstance(step.action, ReplaceActivation | ReplaceFunction) for step in one.plan)
        return not one.is_direct, 1.5 if is_slope and replaces else one.cost

    return sorted(found, key=order)


def learning_rate_scales(facts: Facts) -> Iterator[Plan]:
    """Use the scales that were tested and found to help."""
    scales = facts.measured.lr_scales
    if scales is None or scales.verdict != "use":
        return
    groups = tuple(
        RateGroup(scale=group.scale, parameters=group.parameters) for group in scales.groups if group.scale is not None
    )
    if groups and any(group.scale != 1.0 for group in groups):
        yield (Step(ScaleLearningRates(groups=groups), "uneven_gradients"),)


def broken_weights(facts: Facts) -> Iterator[Plan]:
    """Draw weights that are not finite, constant or zero."""
    scheme = facts.scheme
    bad: dict[str, list[str]] = {"not_finite": [], "constant": [], "zero": []}
    for name, tensor in facts.tensors.items():
        values = tensor.detach()
        if not values.is_floating_point() or values.numel() < 2:
            continue
        if not bool(torch.isfinite(values).all()):
            bad["not_finite"].append(name)
        elif values.dim() >= 2 and tensor.requires_grad and _rows_are_equal(values):
            bad["zero" if not bool(values.any()) else "constant"].append(name)
    if bad["not_finite"]:
        weights = tuple(bad["not_finite"][:MOST_NAMES])
        yield (Step(RedrawWeights(weights=weights, scheme=scheme, reason="not_finite"), "non_finite"),)
    if bad["constant"]:
        weights = tuple(bad["constant"][:MOST_NAMES])
        yield (Step(RedrawWeights(weights=weights, scheme=scheme, reason="constant"), "symmetry"),)
    if bad["zero"]:
        weights = tuple(bad["zero"][:MOST_NAMES])
        yield (Step(RedrawWeights(weights=weights, scheme=scheme, reason="zero"), "zero_gradient"),)


def dead_units(facts: Facts) -> Iterator[Plan]:
    """Draw layers of which most units are zero for every sample."""
    dead = [row.name for row in facts.layers if (row.dead_unit_fraction or 0.0) > DEAD]
    modules = dict(facts.model.named_modules())
    names = [name for name in dict.fromkeys(dead) if _has_weight(modules.get(name))]
    if names:
        yield (Step(ReviveUnits(layers=tuple(names[:MOST_NAMES])), "dead_units"),)


def frozen(facts: Facts) -> Iterator[Plan]:
    """Train what is frozen."""
    names = tuple(name for name, tensor in facts.tensors.items() if not tensor.requires_grad)
    if names and len(names) <= MOST_NAMES:
        yield (Step(Unfreeze(parameters=names), "frozen_parameter"),)


def inputs(facts: Facts) -> Iterator[Plan]:
    """Standardise inputs of an unusual scale or mean."""
    given = facts.patient.task.inputs
    for index, tensor in enumerate(given):
        numbers = _unusual(tensor)
        if numbers is not None:
            mean, std, axis = numbers
            action = StandardiseInputs(
                mean=mean, std=std, axis=axis, dimensions=tensor.dim(), position=None if len(given) == 1 else index
            )
            yield (Step(action, "input_scale"),)


def targets(facts: Facts) -> Iterator[Plan]:
    """Standardise targets of a regression."""
    target, name = facts.patient.task.target, facts.patient.task.name
    if name not in ("mse", "l1", "huber") or not isinstance(target, torch.Tensor):
        return
    numbers = _unusual(target)
    if numbers is not None:
        mean, std, axis = numbers
        action = StandardiseTargets(mean=mean, std=std, axis=axis, dimensions=max(target.dim(), 1))
        yield (Step(action, "target_scale"),)


def output_function(facts: Facts) -> Iterator[Plan]:
    """Take an activation off the output that the loss has itself, or whose range excludes targets."""
    name, loss = facts.observed.output, facts.patient.task.name
    function = next((known for known in get_args(OutputFunction) if known == name), None)
    if function is None or name is None:
        return
    if loss in ("cross_entropy", "nll") and name == "log_softmax":
        return
    if loss in ("mse", "l1", "huber") and not _leaves_range(name, facts.patient.task.target):
        return
    new: Literal["identity", "log_softmax"] = "log_softmax" if loss == "nll" and name == "softmax" else "identity"
    if facts.observed.output_module is not None:
        module = facts.observed.output_module
        yield (Step(RemoveOutputActivation(function=function, module=module, new=new), "output_activation"),)
    elif functions_of(name):
        calls = facts.observed.calls[name]
        action = RemoveOutputFunction(
            function=function, new=new, calls=calls.total, file=calls.last_file, line=calls.last_line
        )
        yield (Step(action, "output_activation"),)


def first_loss(facts: Facts) -> Iterator[Plan]:
    """Let an output layer that is confident from the start begin small."""
    summary = facts.measured.summary
    loss, expected = summary.loss, summary.expected_initial_loss
    if loss is None or not expected or loss < 2 * expected or not facts.matrices:
        return
    head = facts.matrices[-1]
    yield (Step(ScaleWeights(factors={head: _rounded(expected / loss / 2)}, reason="head"), "initial_loss"),)


def saturation(facts: Facts) -> Iterator[Plan]:
    """Draw the weights of a network whose activations are saturated."""
    if facts.of_rule("saturated_activation") is not None:
        for plan in initialisation(facts):
            yield tuple(Step(step.action, "saturated_activation") for step in plan)


def initialisation(facts: Facts) -> Iterator[Plan]:
    """Draw all weights with the initialisation of the hidden activation."""
    rule = _signal_rule(facts)
    if facts.has_modules(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) and not facts.patient.is_scripted:
        yield (Step(Initialize(scheme=facts.scheme), rule),)
        return
    trained = tuple(name for name in facts.matrices if name in facts.tensors)
    if trained and len(trained) <= MOST_NAMES:
        biases = tuple(name for name in facts.biases if name in facts.tensors)
        yield (Step(Initialize(scheme=facts.scheme, weights=trained, biases=biases), rule),)


def activation(facts: Facts) -> Iterator[Plan]:
    """Replace a saturating hidden activation by relu, with He's initialisation."""
    old = next((known for known in get_args(Replaceable) if known == facts.hidden), None)
    if old is None or old == "relu":
        return
    rule = _signal_rule(facts)
    kinds = tuple(getattr(nn, layer.name) for layer in BY_NAME[old].layers)
    initialize = Step(Initialize(scheme="he"), rule)
    draws = (initialize,) if facts.has_modules(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) else ()
    if facts.observed.is_functional(old):
        calls = facts.observed.calls[old]
        is_output = facts.observed.output == old and facts.observed.output_module is None
        action = ReplaceFunction(
            old=old, new="relu", calls=calls.total, file=calls.file, line=calls.line, unless_last=is_output
        )
        yield (Step(action, rule), *draws)
    elif facts.has_modules(*kinds):
        output = facts.observed.output_module
        unless = (output,) if output is not None and facts.observed.output == old else ()
        yield (Step(ReplaceActivation(old=old, new="relu", unless=unless), rule), *draws)


def recurrence(facts: Facts) -> Iterator[Plan]:
    """Make recurrent weights orthogonal, alone and with clipping."""
    if not any("weight_hh" in name for name in facts.tensors):
        return
    orthogonal = Step(OrthogonalRecurrence(), _signal_rule(facts))
    yield (orthogonal,)
    yield (orthogonal, Step(ClipGradients(max_norm=1.0), "exploding_signal"))


def clipping(facts: Facts) -> Iterator[Plan]:
    """Clip the gradient of a network whose signal grows."""
    finding = facts.of_rule("exploding_signal", "learning_rate", "sharpness")
    if finding is not None:
        yield (Step(ClipGradients(max_norm=1.0), finding.rule),)


def residual_scale(facts: Facts) -> Iterator[Plan]:
    """Let residual branches start small."""
    blocks = sum(isinstance(module, Residual) for module in facts.model.modules())
    if blocks >= 2:
        yield (Step(ScaleResidual(scale=_rounded(1 / math.sqrt(blocks))), _signal_rule(facts)),)
        return
    finding = facts.of_rule("exploding_signal", "vanishing_signal")
    if finding is None or _blamed(facts) != "residual_scale":
        return
    ends = [name for row in facts.layers if row.name in finding.layers for name in row.parameters]
    weights = [name for name in dict.fromkeys(ends) if name in facts.tensors and facts.tensors[name].dim() >= 2]
    if weights and len(weights) <= MOST_NAMES:
        yield (Step(ScaleWeights(factors=dict.fromkeys(weights, 0.0), reason="branch"), finding.rule),)


def normalization(facts: Facts) -> Iterator[Plan]:
    """Normalise hidden layers."""
    if len(facts.matrices) >= 2 and facts.has_modules(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d):
        rule = _signal_rule(facts)
        yield (Step(AddNormalization(kind="layer"), rule),)
        yield (Step(AddNormalization(kind="batch"), rule),)


def skip_connections(facts: Facts) -> Iterator[Plan]:
    """Add skip connections around layers that keep their shape."""
    square = sum(
        type(module) is nn.Linear and module.in_features == module.out_features for module in facts.model.modules()
    )
    if square >= 4:
        scale = _rounded(1 / math.sqrt(square))
        yield (Step(AddSkipConnections(scale=scale), _signal_rule(facts)),)


_KINDS: tuple[tuple[Callable[[Facts], Iterator[Plan]], int, bool], ...] = (
    (learning_rate_scales, 1, True),
    (broken_weights, 2, True),
    (dead_units, 2, True),
    (inputs, 4, True),
    (targets, 4, True),
    (output_function, 5, True),
    (first_loss, 2, True),
    (saturation, 2, True),
    (clipping, 1, False),
    (initialisation, 2, False),
    (activation, 3, False),
    (recurrence, 3, False),
    (frozen, 4, False),
    (residual_scale, 5, False),
    (normalization, 6, False),
    (skip_connections, 7, False),
)


def _blamed(facts: Facts) -> str | None:
    """Return the cause that the findings give for a signal that shrinks or grows."""
    finding = facts.of_rule("vanishing_signal", "exploding_signal")
    return str(finding.remedy.arguments.get("cause")) if finding is not None and finding.remedy is not None else None


def _signal_rule(facts: Facts) -> str:
    """Return the rule that a general remedy answers."""
    finding = facts.of_rule(
        "vanishing_signal", "exploding_signal", "saturated_activation", "dead_units", "correlation_collapse",
        "zero_gradient", "poor_initialization", "uneven_gradients",
    )  # fmt: skip
    return finding.rule if finding is not None else "does_not_learn"


def _rows_are_equal(values: torch.Tensor) -> bool:
    """Check that all units have equal weights, to a rounding error."""
    rows = values.reshape(values.shape[0], -1)
    if rows.shape[0] < 2:
        return False
    return bool((rows - rows[:1]).abs().max() <= 1e-6 * rows.abs().max())


def _has_weight(module: nn.Module | None) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dim() >= 2


def _unusual(tensor: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...], int] | None:
    """Return means, standard deviations and the features' axis of a tensor that needs standardising; else None."""
    if not tensor.is_floating_point() or tensor.numel() < 2:
        return None
    values = tensor.detach().double()
    if not bool(torch.isfinite(values).all()):
        return None
    mean, std = float(values.mean()), float(values.std())
    is_usual = STANDARD[0] <= std <= STANDARD[1] and abs(mean) <= OFF_CENTRE * std
    features = _by_feature(values)
    if features is not None:
        means, stds, axis = features
        if float(stds.max()) > UNEVEN * max(float(stds.median()), 1e-12) or not is_usual:
            least = LEAST_SPREAD * float(stds.max())
            stds = torch.where(stds > least, stds, torch.full_like(stds, max(least, 1e-12)))
            if float(stds.max() / stds.min()) > UNEVEN or float(means.max() - means.min()) > UNEVEN * float(stds.min()):
                return tuple(map(_rounded, means.tolist())), tuple(map(_rounded, stds.tolist())), axis
    if is_usual or std <= 0:
        return None
    return (_rounded(mean),), (_rounded(std),), 1


def _by_feature(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int] | None:
    """Return each feature's mean and standard deviation, and the features' axis: channels of images, else the last."""
    if values.dim() < 2:
        return None
    axis = 1 if values.dim() >= 4 else values.dim() - 1
    if not 1 < values.shape[axis] <= MOST_FEATURES or values.shape[0] < 2:
        return None
    others = [each for each in range(values.dim()) if each != axis]
    return values.mean(others), values.std(others), axis


def _leaves_range(function: str, target: object) -> bool:
    """Check that targets lie outside what a function can give."""
    if not isinstance(target, torch.Tensor) or not target.is_floating_point():
        return False
    low, high = {"tanh": (-1.0, 1.0), "hardtanh": (-1.0, 1.0), "relu": (0.0, math.inf)}.get(function, (0.0, 1.0))
    if function == "softplus":
        high = math.inf
    return float(target.min()) < low or float(target.max()) > high


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
