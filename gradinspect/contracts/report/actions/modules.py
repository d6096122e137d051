"""Actions that exchange, wrap or unfreeze modules of an eager model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gradinspect.contracts.document import Name
from gradinspect.contracts.nonlinearities import BY_NAME
from gradinspect.contracts.optimizers import Positive
from gradinspect.contracts.report.actions.action import Action, Names, cut, listed, literals

Replaceable = Literal["sigmoid", "tanh", "relu", "hardtanh", "hardsigmoid", "softsign", "elu", "softplus"]
Replacement = Literal["relu", "leaky_relu", "gelu", "tanh"]
OutputFunction = Literal["softmax", "log_softmax", "sigmoid", "relu", "tanh", "hardtanh", "hardsigmoid", "softplus"]
_MADE: dict[str, str] = {"relu": "nn.ReLU()", "leaky_relu": "nn.LeakyReLU()", "gelu": "nn.GELU()", "tanh": "nn.Tanh()"}

_NAMED_LAYERS = (
    "layers = [\n"
    "    (name, module)\n"
    "    for name, module in model.named_modules()\n"
    "    if type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)\n"
    "]\n"
)


def classes(function: str) -> str:
    """Write the torch.nn classes of an activation as a tuple.

    >>> classes("hardtanh"), classes("tanh")
    ('(nn.Hardtanh, nn.ReLU6)', '(nn.Tanh,)')
    """
    names = [f"nn.{layer.name}" for layer in BY_NAME[function].layers]
    return f"({names[0]},)" if len(names) == 1 else f"({', '.join(names)})"


class ReplaceActivation(Action):
    """Replace every activation module of one function by another.

    Attributes:
        unless: modules that keep their function, such as an output.
    """

    name: ClassVar[str] = "replace_activation"

    old: Replaceable
    new: Replacement
    unless: Annotated[tuple[Name, ...], Field(max_length=64)] = ()

    def sentence(self) -> str:
        """Return the change in one sentence."""
        but = f", except {listed(self.unless)}" if self.unless else ""
        return f"Replace every {self.old} by {self.new}{but}."

    def source(self) -> str:
        """Return the lines that exchange the modules."""
        keep = f"keep = [\n{literals(self.unless)}]\n" if self.unless else ""
        but = " and name not in keep" if self.unless else ""
        name = BY_NAME[self.old].layers[0].name
        return (
            f"{keep}"
            "found = [\n"
            "    name\n"
            "    for name, module in model.named_modules()\n"
            f"    if type(module) in {classes(self.old)}{but}\n"
            "]\n"
            "if not found:\n"
            f'    raise LookupError("no torch.nn.{name} found")\n'
            "for name in found:\n"
            '    parent, _, child = name.rpartition(".")\n'
            f"    setattr(model.get_submodule(parent), child, {_MADE[self.new]})\n"
        )


class RemoveOutputActivation(Action):
    """Take the last module away, because the loss has the function itself or its range excludes targets."""

    name: ClassVar[str] = "remove_output_activation"

    function: OutputFunction
    module: Name
    new: Literal["identity", "log_softmax"] = "identity"

    def sentence(self) -> str:
        """Return the change in one sentence."""
        if self.new == "log_softmax":
            return f"Replace the {self.function} at the output ({cut(self.module)}) by log_softmax."
        return f"Remove the {self.function} at the output ({cut(self.module)})."

    def source(self) -> str:
        """Return the lines that exchange the module."""
        made = "nn.LogSoftmax(dim=layer.dim)" if self.new == "log_softmax" else "nn.Identity()"
        name = BY_NAME[self.function].layers[0].name
        return (
            f"names = [\n{literals([self.module])}]\n"
            "layer = dict(model.named_modules()).get(names[0])\n"
            f"if type(layer) not in {classes(self.function)}:\n"
            f'    raise LookupError(f"{{names[0]!r}} is no torch.nn.{name}")\n'
            'parent, _, child = names[0].rpartition(".")\n'
            f"setattr(model.get_submodule(parent), child, {made})\n"
        )


class ScaleResidual(Action):
    """Scale the residual branches of a model built from a spec."""

    name: ClassVar[str] = "scale_residual"

    scale: Positive

    def sentence(self) -> str:
        """Return the change in one sentence."""
        return f"Scale each residual branch by {self.scale:g} (`scale` of the spec's Residual)."

    def source(self) -> str:
        """Return the lines that set the scale."""
        return (
            'blocks = [m for m in model.modules() if type(m).__name__ == "Residual"]\n'
            'blocks = [module for module in blocks if hasattr(module, "scale")]\n'
            "if not blocks:\n"
            '    raise LookupError("no Residual block with a scale")\n'
            "for block in blocks:\n"
            f"    block.scale = {self.scale!r}\n"
        )


class AddNormalization(Action):
    """Normalise the output of every linear and convolutional layer but the last."""

    name: ClassVar[str] = "add_normalization"

    kind: Literal["layer", "batch"] = "layer"

    def sentence(self) -> str:
        """Return the change in one sentence."""
        kind = "LayerNorm (GroupNorm after convolutions)" if self.kind == "layer" else "BatchNorm"
        return f"Add {kind} behind every linear and convolutional layer but the last."

    def source(self) -> str:
        """Return the lines that wrap the layers."""
        if self.kind == "layer":
            linear, convolution = "nn.LayerNorm(layer.out_features)", "nn.GroupNorm(1, layer.out_channels)"
        else:
            linear = "nn.BatchNorm1d(layer.out_features)"
            convolution = "batch_norms[type(layer)](layer.out_channels)"
        table = (
            "batch_norms = {\n"
            "    nn.Conv1d: nn.BatchNorm1d,\n    nn.Conv2d: nn.BatchNorm2d,\n    nn.Conv3d: nn.BatchNorm3d,\n}\n"
            if self.kind == "batch"
            else ""
        )
        return (
            f"{table}{_NAMED_LAYERS}"
            "if len(layers) < 2:\n"
            '    raise LookupError("no hidden linear or convolutional module")\n'
            "for name, layer in layers[:-1]:\n"
            "    if type(layer) is nn.Linear:\n"
            f"        norm = {linear}\n"
            "    else:\n"
            f"        norm = {convolution}\n"
            "    norm = norm.to(layer.weight)\n"
            '    parent, _, child = name.rpartition(".")\n'
            "    owner = model.get_submodule(parent)\n"
            "    setattr(owner, child, nn.Sequential(layer, norm))\n"
        )


class AddSkipConnections(Action):
    """Add the input to the output of every layer that keeps its shape."""

    name: ClassVar[str] = "add_skip_connections"

    scale: Positive = 1.0

    def sentence(self) -> str:
        """Return the change in one sentence."""
        return f"Add a skip connection around every layer that keeps its shape, with branches scaled by {self.scale:g}."

    def source(self) -> str:
        """Return the lines that wrap the layers."""
        return (
            "class Skip(nn.Module):\n"
            "    def __init__(self, layer, scale):\n"
            "        super().__init__()\n"
            "        self.layer = layer\n"
            "        self.scale = scale\n\n"
            "    def forward(self, x):\n"
            "        return x + self.scale * self.layer(x)\n\n\n"
            f"{_NAMED_LAYERS}"
            "square = [\n"
            "    (name, layer)\n"
            "    for name, layer in layers[:-1]\n"
            '    if getattr(layer, "in_features", 0)\n'
            '    == getattr(layer, "out_features", -1)\n'
            "]\n"
            "if not square:\n"
            '    raise LookupError("no layer keeps the shape of its input")\n'
            "for name, layer in square:\n"
            '    parent, _, child = name.rpartition(".")\n'
            "    owner = model.get_submodule(parent)\n"
            f"    setattr(owner, child, Skip(layer, {self.scale!r}))\n"
        )


class Unfreeze(Action):
    """Train parameters that are frozen."""

    name: ClassVar[str] = "unfreeze"
    is_in_place: ClassVar[bool] = True

    parameters: Names

    def sentence(self) -> str:
        """Return the change in one sentence."""
        return f"Train {listed(self.parameters)}, which {'is' if len(self.parameters) == 1 else 'are'} frozen."

    def source(self) -> str:
        """Return the lines that unfreeze the parameters."""
        return (
            f"names = [\n{literals(self.parameters)}]\n"
            "parameters = dict(model.named_parameters(remove_duplicate=False))\n"
            "frozen = [n for n in names if not parameters[n].requires_grad]\n"
            "if not frozen:\n"
            '    raise LookupError("none of these parameters is frozen")\n'
            "for name in frozen:\n"
            "    parameters[name].requires_grad_(True)\n"
        )
