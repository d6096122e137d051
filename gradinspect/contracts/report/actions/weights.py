"""Actions that change weights: how they are drawn, their size, and single layers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gradinspect.contracts.document import Finite
from gradinspect.contracts.optimizers import Positive
from gradinspect.contracts.report.actions.action import Action, Factors, Names, listed, literals, pairs

Scheme = Literal["he", "xavier", "tanh"]
_CALLS: dict[str, str] = {
    "he": 'kaiming_normal_(weight, nonlinearity="relu")',
    "xavier": "xavier_normal_(weight)",
    "tanh": "xavier_normal_(weight, gain=5 / 3)",
}
_WORDS: dict[str, str] = {
    "he": "He initialisation",
    "xavier": "Xavier initialisation",
    "tanh": "Xavier initialisation of gain 5/3",
}
_LAYERS = (
    "layers = [\n"
    "    module\n"
    "    for module in model.modules()\n"
    "    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))\n"
    "]\n"
)
_REQUIRE = (
    "missing = [name for name in names if name not in parameters]\n"
    "if missing:\n"
    '    raise LookupError(f"no parameter {missing[0]!r}")\n'
)
_PARAMETERS = "parameters = dict(model.named_parameters(remove_duplicate=False))\n"


class Initialize(Action):
    """Draw weights anew and set biases to zero.

    Attributes:
        weights: names of the weights; None for those of all linear and convolutional modules.
        biases: names of the biases to set to zero, where weights are named.
        multiply_by: a further factor of the drawn weights.
    """

    name: ClassVar[str] = "initialize"
    is_in_place: ClassVar[bool] = True

    scheme: Scheme
    multiply_by: Positive = 1.0
    weights: Names | None = None
    biases: Annotated[tuple[str, ...], Field(max_length=4096)] = ()

    def sentence(self) -> str:
        """Return the change in one sentence."""
        what = "the weights of all linear and convolutional layers" if self.weights is None else listed(self.weights)
        factor = f", times {self.multiply_by:g}" if self.multiply_by != 1.0 else ""
        return f"Draw {what} with {_WORDS[self.scheme]}{factor}, and set biases to zero."

    def source(self) -> str:
        """Return the lines that draw the weights."""
        call = _CALLS[self.scheme]
        if self.weights is None:
            factor = f"        weight.mul_({self.multiply_by!r})\n" if self.multiply_by != 1.0 else ""
            return (
                f"{_LAYERS}"
                "if not layers:\n"
                '    raise LookupError("no linear or convolutional module to initialise")\n'
                "with torch.no_grad():\n"
                "    for layer in layers:\n"
                "        weight = layer.weight\n"
                f"        nn.init.{call}\n{factor}"
                "        if layer.bias is not None:\n"
                "            nn.init.zeros_(layer.bias)\n"
            )
        factor = f"        weight.mul_({self.multiply_by!r})\n" if self.multiply_by != 1.0 else ""
        biases = f"biases = [\n{literals(self.biases)}]\n" if self.biases else ""
        zeros = "    for name in biases:\n        nn.init.zeros_(parameters[name])\n" if self.biases else ""
        return (
            f"names = [\n{literals(self.weights)}]\n{biases}{_PARAMETERS}{_REQUIRE}"
            "with torch.no_grad():\n"
            "    for name in names:\n"
            "        weight = parameters[name]\n"
            f"        nn.init.{call}\n{factor}{zeros}"
        )


class ScaleWeights(Action):
    """Multiply weights by factors; a factor of 0 lets a residual branch start at zero."""

    name: ClassVar[str] = "scale_weights"
    is_in_place: ClassVar[bool] = True

    factors: Factors
    reason: Literal["gain", "head", "branch"] = "gain"

    def sentence(self) -> str:
        """Return the change in one sentence."""
        names, values = tuple(self.factors), list(self.factors.values())
        least, most = min(values), max(values)
        by = f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}"
        why = {
            "gain": " so that every layer passes the signal on at its size",
            "head": " so that the first outputs are small",
            "branch": " so that residual branches start small",
        }[self.reason]
        return f"Multiply {listed(names)} by {by}{why}."

    def source(self) -> str:
        """Return the lines that multiply the weights."""
        return (
            f"factors = {{\n{pairs(self.factors)}}}\n{_PARAMETERS}names = list(factors)\n{_REQUIRE}"
            "with torch.no_grad():\n"
            "    for name, factor in factors.items():\n"
            "        parameters[name].mul_(factor)\n"
        )


class RedrawWeights(Action):
    """Draw constant, zero or broken weights anew, and leave all others as they are."""

    name: ClassVar[str] = "redraw_weights"
    is_in_place: ClassVar[bool] = True

    weights: Names
    scheme: Scheme = "he"
    reason: Literal["constant", "zero", "not_finite"] = "constant"

    def sentence(self) -> str:
        """Return the change in one sentence."""
        why = {"constant": "all rows are equal", "zero": "they are zero", "not_finite": "they are not finite"}
        return f"Draw {listed(self.weights)} with {_WORDS[self.scheme]}, because {why[self.reason]}."

    def source(self) -> str:
        """Return the lines that draw the weights; vectors become zero."""
        return (
            f"names = [\n{literals(self.weights)}]\n{_PARAMETERS}{_REQUIRE}"
            "with torch.no_grad():\n"
            "    for name in names:\n"
            "        weight = parameters[name]\n"
            "        if weight.dim() < 2:\n"
            "            nn.init.zeros_(weight)\n"
            "        else:\n"
            f"            nn.init.{_CALLS[self.scheme]}\n"
        )


class ReviveUnits(Action):
    """Set the biases of layers to zero and draw their weights anew."""

    name: ClassVar[str] = "revive_units"
    is_in_place: ClassVar[bool] = True

    layers: Names

    def sentence(self) -> str:
        """Return the change in one sentence."""
        return f"Draw {listed(self.layers)} with He initialisation and zero biases, so that their units are active."

    def source(self) -> str:
        """Return the lines that draw the layers."""
        return (
            f"names = [\n{literals(self.layers)}]\n"
            "modules = dict(model.named_modules())\n"
            "missing = [name for name in names if name not in modules]\n"
            "if missing:\n"
            '    raise LookupError(f"no module {missing[0]!r}")\n'
            "with torch.no_grad():\n"
            "    for name in names:\n"
            "        layer = modules[name]\n"
            '        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")\n'
            "        if layer.bias is not None:\n"
            "            nn.init.zeros_(layer.bias)\n"
        )


class OrthogonalRecurrence(Action):
    """Make recurrent weights orthogonal, each gate by itself."""

    name: ClassVar[str] = "orthogonal_recurrence"
    is_in_place: ClassVar[bool] = True

    gain: Positive = 1.0

    def sentence(self) -> str:
        """Return the change in one sentence."""
        factor = f" times {self.gain:g}" if self.gain != 1.0 else ""
        return f"Make the recurrent weights orthogonal{factor}, so that a state keeps its size over time."

    def source(self) -> str:
        """Return the lines that draw the recurrent weights."""
        gain = f", gain={self.gain!r}" if self.gain != 1.0 else ""
        return (
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
            f"            nn.init.orthogonal_(gate{gain})\n"
        )


class SetForgetBias(Action):
    """Set the bias of an LSTM's forget gate."""

    name: ClassVar[str] = "set_forget_bias"
    is_in_place: ClassVar[bool] = True

    value: Finite = 1.0

    def sentence(self) -> str:
        """Return the change in one sentence."""
        return f"Set the bias of the LSTM's forget gate to {self.value:g}, so that it remembers from the start."

    def source(self) -> str:
        """Return the lines that set the bias: torch orders the gates input, forget, cell, output."""
        return (
            "biases = [\n"
            "    bias\n"
            "    for module in model.modules()\n"
            "    if isinstance(module, nn.LSTM)\n"
            "    for name, bias in module.named_parameters()\n"
            '    if "bias_hh" in name\n'
            "]\n"
            "if not biases:\n"
            '    raise LookupError("no nn.LSTM with biases")\n'
            "with torch.no_grad():\n"
            "    for bias in biases:\n"
            "        size = bias.shape[0] // 4\n"
            f"        bias[size : 2 * size].fill_({self.value!r})\n"
        )
