"""Actions that change how the model is trained: the optimizer, rates per layer, and the gradient's norm."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from gradinspect.contracts.document import Document
from gradinspect.contracts.optimizers import Optimizer, Positive
from gradinspect.contracts.report.actions.action import Action, Names, literals


class SetOptimizer(Action):
    """Train with this optimizer; the last line of the block makes it."""

    name: ClassVar[str] = "set_optimizer"
    is_in_place: ClassVar[bool] = True

    optimizer: Optimizer

    def sentence(self) -> str:
        """Return the change in one sentence."""
        optimizer = self.optimizer
        momentum = f" and momentum {optimizer.memory:g}" if optimizer.memory else ""
        return f"Train with {optimizer.torch_name} at a learning rate of {optimizer.lr:g}{momentum}."


class RateGroup(Document):
    """Parameters that share a multiple of the base rate."""

    scale: Positive
    parameters: Names


class ScaleLearningRates(Action):
    """Give parameters multiples of the base rate; parameters that are not named have the base rate."""

    name: ClassVar[str] = "scale_learning_rates"
    is_in_place: ClassVar[bool] = True

    groups: Annotated[tuple[RateGroup, ...], Field(min_length=1, max_length=4096)]

    @model_validator(mode="after")
    def _scales_something(self) -> ScaleLearningRates:
        if all(group.scale == 1.0 for group in self.groups):
            raise ValueError("every scale is 1")
        return self

    def sentence(self) -> str:
        """Return the change in one sentence."""
        scales = [group.scale for group in self.groups]
        return f"Scale the learning rate by layer, from {min(scales):.3g} to {max(scales):.3g} times the base rate."

    def source(self) -> str:
        """Return the lines that make `groups`. Tied tensors are identified by their memory."""
        rows = "".join(
            f"    (\n        {group.scale!r},\n        [\n{literals(group.parameters, indent='            ')}"
            "        ],\n    ),\n"
            for group in self.groups
        )
        return (
            f"scales = [\n{rows}]\n"
            "named = dict(model.named_parameters(remove_duplicate=False))\n"
            "missing = [n for _, names in scales for n in names if n not in named]\n"
            "if missing:\n"
            '    raise LookupError(f"no parameter {missing[0]!r}")\n'
            "scale_of = {\n"
            "    named[n].data_ptr(): scale for scale, names in scales for n in names\n"
            "}\n"
        )

    @staticmethod
    def groups_source(lr: float) -> str:
        """Return the lines that make parameter groups at a base rate, from `scale_of`."""
        return (
            f"base_lr = {lr!r}\n"
            "tensors = {}\n"
            "for tensor in model.parameters():\n"
            "    scale = scale_of.get(tensor.data_ptr(), 1.0)\n"
            "    tensors.setdefault(scale, []).append(tensor)\n"
            "groups = [\n"
            '    {"params": group, "lr": base_lr * scale}\n'
            "    for scale, group in tensors.items()\n"
            "]\n"
        )


class ClipGradients(Action):
    """Shorten gradients before each step."""

    name: ClassVar[str] = "clip_gradients"
    is_in_place: ClassVar[bool] = True

    max_norm: Positive

    def sentence(self) -> str:
        """Return the change in one sentence."""
        return f"Clip the norm of the gradient to {self.max_norm:g}."

    def optimizer_source(self) -> str:
        """Return the lines that clip in front of every step."""
        return (
            "\n\n"
            "def clip_gradients(optimizer, *_):\n"
            '    tensors = [t for g in optimizer.param_groups for t in g["params"]]\n'
            f"    torch.nn.utils.clip_grad_norm_(tensors, {self.max_norm!r})\n\n\n"
            "optimizer.register_step_pre_hook(clip_gradients)\n"
        )
