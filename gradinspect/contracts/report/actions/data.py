"""Actions that change the data: `prepare(inputs, targets)` applies them to every batch."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from gradinspect.contracts.document import Finite
from gradinspect.contracts.optimizers import Positive
from gradinspect.contracts.report.actions.action import Action, numbers


class _Standardise(Action):
    """Subtract a mean and divide by a standard deviation, each one number or one for each feature.

    Attributes:
        axis: of the features where there are several numbers; counted from the batch axis 0.
    """

    mean: Annotated[tuple[Finite, ...], Field(min_length=1, max_length=1024)]
    std: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=1024)]
    axis: Annotated[int, Field(ge=1, le=8)] = 1
    dimensions: Annotated[int, Field(ge=1, le=8)] = 2

    @model_validator(mode="after")
    def _fits(self) -> _Standardise:
        if len(self.mean) != len(self.std):
            raise ValueError("mean and std have different lengths")
        if len(self.mean) > 1 and self.axis >= self.dimensions:
            raise ValueError("the axis of the features is not one of the tensor's")
        return self

    def _numbers(self, what: str) -> str:
        return numbers(f"{what}_mean", self.mean) + numbers(f"{what}_std", self.std)

    def _line(self, what: str, value: str) -> str:
        """Return the line that standardises `value`."""
        mean, std = f"{what}_mean", f"{what}_std"
        if len(self.mean) == 1:
            return f"({value} - {mean}) / {std}"
        shape = ", ".join("-1" if axis == self.axis else "1" for axis in range(1, self.dimensions))
        if self.dimensions > 2:
            mean, std = f"{mean}.view({shape})", f"{std}.view({shape})"
        return f"(\n        {value} - {mean}.to({value})\n    ) / {std}.to({value})"


class StandardiseInputs(_Standardise):
    """Standardise one input of the model by the numbers of the inspected batch.

    Attributes:
        position: of the input among the model's arguments; None for the only one.
    """

    name: ClassVar[str] = "standardise_inputs"

    position: Annotated[int, Field(ge=0, le=63)] | None = None

    def sentence(self) -> str:
        """Return the change in one sentence."""
        which = "the inputs" if self.position is None else f"input {self.position}"
        if len(self.mean) > 1:
            return f"Standardise {which}: each of {len(self.mean)} features to mean 0 and standard deviation 1."
        return f"Standardise {which}: subtract {self.mean[0]:.4g} and divide by {self.std[0]:.4g}."

    def source(self) -> str:
        """Return the lines with the numbers."""
        return self._numbers("input")

    def prepare_source(self) -> str:
        """Return the lines that standardise the input."""
        if self.position is None:
            return f"    inputs = {self._line('input', 'inputs')}\n"
        return (
            "    inputs = list(inputs)\n"
            f"    one = inputs[{self.position}]\n"
            f"    inputs[{self.position}] = {self._line('input', 'one')}\n"
            "    inputs = tuple(inputs)\n"
        )


class StandardiseTargets(_Standardise):
    """Standardise the targets by the numbers of the inspected batch."""

    name: ClassVar[str] = "standardise_targets"

    def sentence(self) -> str:
        """Return the change in one sentence."""
        if len(self.mean) > 1:
            return f"Standardise the targets, each of {len(self.mean)} features; undo it on the model's predictions."
        return (
            f"Standardise the targets: subtract {self.mean[0]:.4g} and divide by {self.std[0]:.4g}; a prediction is "
            "output * target_std + target_mean."
        )

    def source(self) -> str:
        """Return the lines with the numbers."""
        return self._numbers("target")

    def prepare_source(self) -> str:
        """Return the lines that standardise the targets."""
        return f"    targets = {self._line('target', 'targets')}\n"
