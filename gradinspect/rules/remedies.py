"""Remedies for a backward signal that shrinks or grows, by the factor responsible.

A remedy names an action and its arguments. Code is only in the report's prescription, which has been tried.
"""

from __future__ import annotations

import math

from gradinspect.contracts.nonlinearities import BY_NAME
from gradinspect.contracts.report.report import Remedy
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.rules.blame import Blame

_HE = {"function": "kaiming_normal_", "arguments": {"nonlinearity": "relu"}}


def remedy_for(blame: Blame) -> Remedy:
    """Return the change that addresses the factor to blame."""
    match blame.cause:
        case "weight_scale":
            return initialize(blame.layers, blame.cause)
        case "activation_slope":
            return _revive(blame) if blame.per_layer == 0 else _replace_activation(blame)
        case "cut_signal":
            return Remedy(action="unblock_gradient", arguments={"look_for": ["detach", "clamp", "round", "dead units"]})
        case "normalisation" | "depth":
            return _add_residual(blame)
        case "residual_scale":
            return _scale_residual(blame)
        case "recurrence":
            has_hidden_weight = any("weight_hh" in name for row in blame.layers for name in row.parameters)
            return _orthogonal_recurrence(blame) if has_hidden_weight else _add_residual(blame)


def initialize(layers: tuple[LayerMeasurement, ...], cause: str) -> Remedy:
    """Redraw the weights of linear and convolutional layers with the gain that balances the nonlinearity."""
    record = BY_NAME.get(next((row.nonlinearity for row in layers if row.nonlinearity is not None), ""))
    arguments: dict[str, object] = {"function": "xavier_normal_", "arguments": {"gain": 1.0}}
    if record is not None and record.initialization == "he":
        arguments = {**_HE}
        if not record.is_rectifier:
            gain = round(1 / record.balanced_slope, 3)
            arguments = {"function": "kaiming_normal_", "arguments": {"nonlinearity": "linear"}, "multiply_by": gain}
    elif record is not None and record.initialization == "tanh":
        arguments = {"function": "xavier_normal_", "arguments": {"gain": round(5 / 3, 4)}}
    return Remedy(action="initialize", arguments={**arguments, "cause": cause})


def _revive(blame: Blame) -> Remedy:
    return Remedy(action="revive_units", arguments={"layers": [row.name for row in blame.layers], "cause": blame.cause})


def _replace_activation(blame: Blame) -> Remedy:
    old = next((row.nonlinearity for row in blame.layers if row.nonlinearity is not None), "sigmoid")
    return Remedy(
        action="replace_activation", arguments={"from": old, "to": "relu", "initialize": _HE, "cause": blame.cause}
    )


def _scale_residual(blame: Blame) -> Remedy:
    branches = max(len(blame.layers), 1)
    arguments = {"scale": round(1 / math.sqrt(branches), 4), "branches": branches, "cause": blame.cause}
    return Remedy(action="scale_residual", arguments=arguments)


def _orthogonal_recurrence(blame: Blame) -> Remedy:
    arguments = {"function": "orthogonal_", "parameters": "weight_hh", "clip_gradient_norm": 1.0}
    return Remedy(action="initialize", arguments={**arguments, "cause": blame.cause})


def _add_residual(blame: Blame) -> Remedy:
    return Remedy(action="add_residual", arguments={"normalise": "before the branch", "cause": blame.cause})
