"""Remedies for a backward signal that shrinks or grows, by the factor responsible.

A remedy is machine-readable: an action, its arguments, and Python code that runs as printed on a variable `model`.
`probes/remedies/remedy_check` runs the same code on a fresh copy; it raises LookupError where nothing can be changed.
"""

from __future__ import annotations

import math

from gradinspect.contracts.nonlinearities import BY_NAME
from gradinspect.contracts.report.report import Remedy
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.rules.blame import Blame
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Thresholds
from gradinspect.wording import number

_IMPORTS = "import torch\nfrom torch import nn\n\n"
_HE = 'kaiming_normal_(layer.weight, nonlinearity="relu")'


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
            return _orthogonal_recurrence(blame)


def tried(remedy: Remedy, evidence: Evidence, gain: float, thresholds: Thresholds) -> tuple[Remedy, str]:
    """Add the result of trying the remedy; return it as a sentence too, "" where it was not tried.

    Args:
        remedy: of this finding.
        evidence: the measurements, with the checks that were made.
        gain: the cumulative gain before.
        thresholds: of the rule whose finding it is.
    """
    check = next(
        (c for c in evidence.remedy_checks if c.action == remedy.action and c.arguments == remedy.arguments), None
    )
    if check is None or check.cumulative_gain is None:
        return remedy, ""
    after = check.cumulative_gain
    sentence = (
        f" Tried on a fresh copy of the network, this remedy changes the signal at the first layer from {number(gain)} "
        f"to {number(after)} times its size at the output."
    )
    if thresholds.severity(after) is not None:
        sentence += " That is not enough by itself."
    return remedy.model_copy(update={"checked_gain": after}), sentence


def initialize(layers: tuple[LayerMeasurement, ...], cause: str) -> Remedy:
    """Redraw the weights of linear and convolutional layers with the gain that balances the nonlinearity."""
    record = BY_NAME.get(next((row.nonlinearity for row in layers if row.nonlinearity is not None), ""))
    arguments: dict[str, object]
    if record is not None and record.initialization == "he":
        call, arguments = _HE, {"function": "kaiming_normal_", "arguments": {"nonlinearity": "relu"}}
        if not record.is_rectifier:
            gain = round(1 / record.balanced_slope, 3)
            call = f'kaiming_normal_(layer.weight, nonlinearity="linear")\n        layer.weight.mul_({gain})'
            arguments = {"function": "kaiming_normal_", "arguments": {"nonlinearity": "linear"}, "multiply_by": gain}
    elif record is not None and record.initialization == "tanh":
        call = "xavier_normal_(layer.weight, gain=5 / 3)"
        arguments = {"function": "xavier_normal_", "arguments": {"gain": round(5 / 3, 4)}}
    else:
        call, arguments = "xavier_normal_(layer.weight)", {"function": "xavier_normal_", "arguments": {"gain": 1.0}}
    code = f"{_IMPORTS}{_draw_code(call)}"
    return Remedy(action="initialize", arguments={**arguments, "cause": cause}, code=code)


def _draw_code(call: str) -> str:
    """Write code that draws every linear and convolutional layer by `nn.init.{call}` and zeroes its bias.

    Its lines are at most 76 characters wide, so that they fit a terminal of 80.
    """
    return (
        "layers = [\n"
        "    module\n"
        "    for module in model.modules()\n"
        "    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))\n"
        "]\n"
        "if not layers:\n"
        '    raise LookupError("no linear or convolutional module to initialise")\n'
        "with torch.no_grad():\n"
        "    for layer in layers:\n"
        f"        nn.init.{call}\n"
        "        if layer.bias is not None:\n"
        "            nn.init.zeros_(layer.bias)\n"
    )


def _revive(blame: Blame) -> Remedy:
    names = [row.name for row in blame.layers]
    code = (
        "import torch\n\n"
        f"dead = {names!r}\n"
        "for name, module in model.named_modules():\n"
        "    if name in dead:\n"
        "        torch.nn.init.zeros_(module.bias)\n"
        '        torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")\n'
    )
    return Remedy(action="revive_units", arguments={"layers": names, "cause": blame.cause}, code=code)


def _replace_activation(blame: Blame) -> Remedy:
    old = next((row.nonlinearity for row in blame.layers if row.nonlinearity is not None), "sigmoid")
    arguments = {
        "from": old, "to": "relu", "initialize": {"function": "kaiming_normal_", "arguments": {"nonlinearity": "relu"}},
        "cause": blame.cause,
    }  # fmt: skip
    record = BY_NAME.get(old or "")
    code = None
    if record is not None and record.largest_slope is not None:
        name = record.layers[0].name
        code = (
            f"{_IMPORTS}"
            "found = [\n"
            "    (parent, child)\n"
            "    for parent in model.modules()\n"
            "    for child, module in parent.named_children()\n"
            f"    if type(module) is nn.{name}\n"
            "]\n"
            "if not found:\n"
            f'    raise LookupError("no nn.{name}: change forward() instead")\n'
            "for parent, child in found:\n"
            "    setattr(parent, child, nn.ReLU())\n"
            f"{_draw_code(_HE)}"
        )
    return Remedy(action="replace_activation", arguments=arguments, code=code)


def _add_residual(blame: Blame) -> Remedy:
    code = (
        "import torch\n\n\n"
        "class Residual(torch.nn.Module):\n"
        '    """x + block(x), for a block that keeps the shape of its input."""\n\n'
        "    def __init__(self, block):\n"
        "        super().__init__()\n"
        "        self.block = block\n\n"
        "    def forward(self, x):\n"
        "        return x + self.block(x)\n"
    )
    return Remedy(action="add_residual", arguments={"normalise": "before the branch", "cause": blame.cause}, code=code)


def _scale_residual(blame: Blame) -> Remedy:
    branches = max(len(blame.layers), 1)
    arguments = {"scale": round(1 / math.sqrt(branches), 4), "branches": branches, "cause": blame.cause}
    return Remedy(action="scale_residual", arguments=arguments)


def _orthogonal_recurrence(blame: Blame) -> Remedy:
    code = (
        f"{_IMPORTS}"
        "weights = [\n"
        "    weight\n"
        "    for name, weight in model.named_parameters()\n"
        '    if "weight_hh" in name\n'
        "]\n"
        "if not weights:\n"
        '    raise LookupError("this model has no parameter weight_hh")\n'
        "with torch.no_grad():\n"
        "    for weight in weights:\n"
        "        for gate in weight.split(weight.shape[1]):\n"
        "            nn.init.orthogonal_(gate)\n"
    )
    arguments = {"function": "orthogonal_", "parameters": "weight_hh", "clip_gradient_norm": 1.0, "cause": blame.cause}
    return Remedy(action="initialize", arguments=arguments, code=code)
