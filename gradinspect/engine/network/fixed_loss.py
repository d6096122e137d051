"""The loss of one pass: named or the caller's function, always with the target of the first output."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.setup import OutputHead
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.network.autocast import casting
from gradinspect.engine.network.batch import Batch, Target, tensors_in
from gradinspect.engine.network.loss_head import read_heads
from gradinspect.engine.network.losses import compute_loss
from gradinspect.engine.network.model_errors import describe_tensors, model_errors
from gradinspect.engine.network.outputs import ModelOutput, first_tensor
from gradinspect.engine.network.reproducible import generator

LossValue = torch.Tensor | Mapping[str, torch.Tensor]
CustomLoss = Callable[[ModelOutput, Target], LossValue]

ONLY_TERM = "loss"  # the name of a custom loss that is one tensor


class FixedLoss:
    """The scalar loss of what a model returned, always with the target that was drawn for the first output.

    Args:
        batch: has the target, or draws it.
        settings: of the request; names the loss.
        custom: the caller's function of (output, target), in place of the named loss. It receives what the model
            returned, and returns a scalar, or a dict of named scalars, of which the loss is the sum.
        device: of model and batch.
        seed: source of the random cotangent.

    Attributes:
        target: of the first output; None before the first call.
        heads: how the loss read the outputs in the first call.
    """

    def __init__(
        self, batch: Batch, settings: InspectionSettings, custom: CustomLoss | None, *, device: torch.device, seed: int
    ) -> None:
        self._batch, self._settings, self._custom, self._device, self._seed = batch, settings, custom, device, seed
        self._drawn = False
        self.target: Target = None
        self.heads: tuple[OutputHead, ...] = ()
        self._first: dict[str, torch.Tensor] = {}

    def __call__(self, output: ModelOutput) -> torch.Tensor:
        """Compute the loss with the first output's target."""
        if not self._drawn:
            self.target, self._drawn = self._batch.target_for(output), True
            terms = self.terms(output, self.target)
            self._first = {name: term.detach() for name, term in terms.items()}
            loss = _sum(terms)
            self.heads = tuple(head for head, _ in read_heads(output, self.target, loss))
            return loss
        return self.between(output, self.target)

    def first_values(self) -> dict[str, float]:
        """Read the values of the terms in the first pass."""
        return {name: float(term) for name, term in self._first.items()}

    def between(self, output: ModelOutput, target: Target) -> torch.Tensor:
        """Compute the loss of an output and any target."""
        return _sum(self.terms(output, target))

    def terms(self, output: ModelOutput, target: Target) -> dict[str, torch.Tensor]:
        """Compute the named terms whose sum is the loss, one or several."""

        def taken() -> str:
            shown = f"the output {describe_tensors(tensors_in(output))}"
            return shown if target is None else f"{shown} and the target {describe_tensors(tensors_in(target))}"

        with casting(self._settings.precision, self._device), model_errors("the loss", taken):
            if self._custom is not None:
                return _checked_terms(self._custom(output, target))
            name = self._settings.loss
            if not (target is None or isinstance(target, torch.Tensor)):
                kind = type(target).__name__
                raise InspectionError("data_mismatch", f"the loss {name} takes one tensor as target, not {kind}")
            # A new generator for each call, so that the random cotangent is the same every time.
            value = compute_loss(name, first_tensor(output), target, generator(self._seed, "cotangent"))
            return {name: value}

    def part_of(self, output: ModelOutput) -> ModelOutput:
        """Return the part of a model's output that the loss reads: one tensor, or for a function everything."""
        return output if self._custom is not None else first_tensor(output)


def _sum(terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
    values = iter(terms.values())
    total = next(values)
    for value in values:
        total = total + value
    return total


def _checked_terms(value: object) -> dict[str, torch.Tensor]:
    """Read what the caller's loss returned.

    Raises:
        InspectionError: `model_error` when it is neither a scalar nor a dict of scalars.
    """
    if not isinstance(value, Mapping):
        return {ONLY_TERM: _one_number(value, "")}
    if not value:
        raise InspectionError("model_error", "the loss returned an empty dict, not a tensor for each of its terms")
    return {str(name): _one_number(term, f" as {str(name)!r}") for name, term in value.items()}


def _one_number(value: object, where: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise InspectionError("model_error", f"the loss returned {type(value).__name__}{where}, not a tensor")
    if value.numel() != 1 or not value.is_floating_point():
        shown = describe_tensors((value,))
        raise InspectionError("model_error", f"the loss returned {shown}{where}, not one real number")
    return value if not value.dim() else value.reshape(())
