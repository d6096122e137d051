"""Actions for activations that forward() calls as functions, where no module can be exchanged.

The printed code names the line to change, and until it is changed intercepts the calls of this one model: a subclass
of the model's class runs its forward() under a mode of `torch.overrides`. A forward pass that calls no such function
raises.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gradinspect.contracts.document import Name
from gradinspect.contracts.report.actions.action import Action, cut
from gradinspect.contracts.report.actions.modules import OutputFunction, Replaceable, Replacement

_FUNCTIONS: dict[str, tuple[str, ...]] = {
    "sigmoid": ("torch.sigmoid", "torch.Tensor.sigmoid"),
    "tanh": ("torch.tanh", "torch.Tensor.tanh"),
    "relu": ("torch.relu", "torch.Tensor.relu", "nn.functional.relu"),
    "hardtanh": ("nn.functional.hardtanh", "nn.functional.relu6"),
    "hardsigmoid": ("nn.functional.hardsigmoid",),
    "softsign": ("nn.functional.softsign",),
    "elu": ("nn.functional.elu",),
    "softplus": ("nn.functional.softplus",),
    "softmax": ("torch.softmax", "torch.Tensor.softmax", "nn.functional.softmax"),
    "log_softmax": ("torch.log_softmax", "torch.Tensor.log_softmax", "nn.functional.log_softmax"),
}
_CALLS: dict[str, str] = {
    "relu": "torch.relu",
    "leaky_relu": "nn.functional.leaky_relu",
    "gelu": "nn.functional.gelu",
    "tanh": "torch.tanh",
}


def functions_of(name: str) -> tuple[str, ...]:
    """Return the functions of torch, as source, by which an activation is called; empty where it has none."""
    return _FUNCTIONS.get(name, ())


class _Intercept(Action):
    """Common base: where the function is called, and how often in one forward pass.

    Attributes:
        file: source file of the first (or, at an output, the last) call, where known.
        line: of that call.
        calls: number of calls in one forward pass.
    """

    file: Name | None = None
    line: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    calls: Annotated[int, Field(ge=1, le=1_000_000)] = 1

    def _place(self) -> str:
        return f" ({cut(self.file)}, line {self.line})" if self.file is not None and self.line is not None else ""


class ReplaceFunction(_Intercept):
    """Replace calls of an activation in forward() by calls of another.

    Attributes:
        unless_last: the last call of a forward pass is the output and stays.
    """

    name: ClassVar[str] = "replace_function"

    old: Replaceable
    new: Replacement
    unless_last: bool = False

    def sentence(self) -> str:
        """Return the change in one sentence."""
        but = ", except at the output" if self.unless_last else ""
        return f"Replace {_FUNCTIONS[self.old][0]} by {_CALLS[self.new]} in forward(){self._place()}{but}."

    def source(self) -> str:
        """Return the lines that intercept the calls."""
        condition = f" and self.calls < {self.calls}" if self.unless_last else ""
        least = 1 if self.unless_last else 0
        return _source("Replace", self.old, f"{_CALLS[self.new]}(args[0])", condition, least)


class RemoveOutputFunction(_Intercept):
    """Take away the last call of a function in forward(), because the loss has it or its range excludes targets."""

    name: ClassVar[str] = "remove_output_function"

    function: OutputFunction
    new: Literal["identity", "log_softmax"] = "identity"

    def sentence(self) -> str:
        """Return the change in one sentence."""
        function = _FUNCTIONS[self.function][0]
        if self.new == "log_softmax":
            return f"Replace {function} at the output by torch.log_softmax{self._place()}."
        return f"Remove {function} at the output{self._place()}."

    def source(self) -> str:
        """Return the lines that intercept the last call."""
        value = "torch.log_softmax(args[0], 1)" if self.new == "log_softmax" else "args[0]"
        return _source("Remove", self.function, value, f" and self.calls == {self.calls}", self.calls - 1)


def _source(verb: str, function: str, value: str, condition: str, least: int) -> str:
    """Write the mode and the subclass.

    Args:
        verb: with the function it names the classes, so that one block can hold two of these actions.
        function: which calls are intercepted.
        value: source of what is returned in place of the call's result.
        condition: source of a further condition on the number of the call, counted from 1.
        least: a forward pass with no more calls than this changes nothing.
    """
    title = "".join(part.capitalize() for part in function.split("_"))
    names = "".join(f"        {name},\n" for name in _FUNCTIONS[function])
    return (
        "# Until forward() is edited, this does it for the calls of this model.\n"
        f"class {verb}{title}(torch.overrides.TorchFunctionMode):\n"
        "    calls = 0\n"
        f"    functions = (\n{names}    )\n\n"
        "    def __torch_function__(self, func, types, args=(), kwargs=None):\n"
        "        self.calls += func in self.functions\n"
        f"        if func in self.functions{condition}:\n"
        f"            return {value}\n"
        "        return func(*args, **(kwargs or {}))\n\n\n"
        f"class {verb}{title}InForward(type(model)):\n"
        "    def forward(self, *args, **kwargs):\n"
        f"        with {verb}{title}() as mode:\n"
        "            output = super().forward(*args, **kwargs)\n"
        f"        if mode.calls <= {least}:\n"
        f'            raise LookupError("forward() does not call {_FUNCTIONS[function][0]}")\n'
        "        return output\n\n\n"
        f"model.__class__ = {verb}{title}InForward\n"
    )
