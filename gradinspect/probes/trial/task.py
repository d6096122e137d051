"""What a trial trains on: the batch, the loss, and the scale on which a loss is read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from gradinspect.contracts.request.request import Loss
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.autocast import casting
from gradinspect.engine.network.batch import Target
from gradinspect.engine.network.losses import TARGETLESS
from gradinspect.engine.network.outputs import ModelOutput
from gradinspect.engine.network.reproducible import left_as_found, seeded
from gradinspect.probes.trial.constant_output import chance_of_callable, chance_of_named, floor_of_named
from gradinspect.probes.verify.probe_data import probe_data

Inputs = tuple[torch.Tensor, ...]
Prepare = Callable[[Inputs, Target], tuple[Inputs, Target]]


@dataclass(frozen=True, eq=False)
class Task:
    """The batch and the loss of a training run, for the inspected model and for changed copies of it.

    Attributes:
        inputs: the model's arguments, every step the same.
        target: the loss's second argument; drawn ones are a function of the inputs, so that they can be learned.
        loss: maps what the model returned, and a target, to the scalar loss.
        name: of a named loss; None for a callable.
        output: an output of the model, for its structure and shapes.
        casts: makes the autocast context of a forward pass.
        mode: train or eval.
        device: of model and batch.
        seed: of what is random in the model.
        chance_loss: the loss of the best constant output; None where no constant fits the loss.
        floor_loss: the smallest loss for these targets; None where it is unknown, as for callables.
    """

    inputs: Inputs
    target: Target
    loss: Callable[[ModelOutput, Target], torch.Tensor]
    name: Loss | None
    output: ModelOutput
    casts: Callable[[], AbstractContextManager[object]]
    mode: str
    device: torch.device
    seed: int
    chance_loss: float | None = None
    floor_loss: float | None = None

    @classmethod
    def of(cls, s: SectionInput) -> Task:
        """Take the inspected batch and loss. Cost: one forward pass."""
        data = probe_data(s)
        casts = partial(casting, s.settings.precision, s.device)
        with left_as_found(s.model, s.settings.mode), seeded(s.seed, s.device), torch.no_grad(), casts():
            output = s.part_of(s.model(*data.inputs))
        task = cls(
            data.inputs, data.target, lambda output, target: s.loss_between(s.part_of(output), target),
            s.settings.loss if s.has_named_loss else None, output, casts, s.settings.mode, s.device, s.seed,
        )  # fmt: skip
        return task._with_scale()

    @property
    def has_target(self) -> bool:
        """Check that there is something to learn: output_mean and random_cotangent have no minimum."""
        return self.name is None or self.name not in TARGETLESS

    def prepared(self, prepare: Prepare) -> Task:
        """Return the task on a transformed batch; chance and floor are those of the transformed targets."""
        inputs, target = prepare(self.inputs, self.target)
        changed = replace(self, inputs=tuple(inputs), target=target)
        return changed if target is self.target else changed._with_scale()

    def loss_of(self, model: nn.Module) -> torch.Tensor:
        """Compute the loss of a model on the batch."""
        with self.casts():
            output = model(*self.inputs)
        return self.loss(output, self.target)

    def _with_scale(self) -> Task:
        """Compute chance and floor."""
        if not self.has_target:
            return self
        if self.name is None or not isinstance(self.target, torch.Tensor):
            return replace(self, chance_loss=chance_of_callable(self.loss, self.output, self.target))
        shape = tuple(self.output.shape)
        return replace(
            self,
            chance_loss=chance_of_named(self.name, shape, self.target),
            floor_loss=floor_of_named(self.name, self.target),
        )
