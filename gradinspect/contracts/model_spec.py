"""A model spec: `torch.nn` in JSON. Layers in order, with torch's own class names and arguments."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from gradinspect.contracts.data import SampleInput
from gradinspect.contracts.document import Document
from gradinspect.contracts.initialization import Init
from gradinspect.contracts.layers import Entry
from gradinspect.contracts.layers.containers import MAX_CALLS
from gradinspect.contracts.plan import Plan, SpecError, make_plan


class SpecInput(SampleInput):
    """The model's input, without the batch axis."""

    high: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None,
        description="Tokens only: synthetic ones are drawn below this. Left out: the smallest Embedding's size.",
    )

    @model_validator(mode="after")
    def _only_tokens(self) -> SpecInput:
        if self.high is not None and not self.holds_tokens:
            raise ValueError(
                f"high bounds integer tokens, but dtype is {self.dtype}; leave it out or set dtype to int64"
            )
        return self

    @property
    def holds_tokens(self) -> bool:
        """Whether the input is made of integers."""
        return self.dtype in ("int64", "int32")


class ModelSpec(Document):
    """A network: what goes in, the layers it passes, and how the parameters start."""

    input: SpecInput
    layers: Annotated[tuple[Entry, ...], Field(min_length=1, max_length=MAX_CALLS)]
    init: Init | None = Field(default=None, description="For every layer; left out: torch's own defaults.")

    @cached_property
    def plan(self) -> Plan:
        """What this spec would build: calls, shapes, parameters."""
        return make_plan(self.input.shape, tokens=self.input.holds_tokens, layers=self.layers, init=self.init)

    @model_validator(mode="after")
    def _fits_together(self) -> ModelSpec:
        try:
            vocabulary = self.plan.vocabulary
        except SpecError as fault:
            raise _located(fault) from None
        if vocabulary is None or not self.input.holds_tokens:
            return self
        if self.input.high is None:
            # Written down where the engine and the stored document both see it; the model is still being made.
            self.__dict__["input"] = self.input.model_copy(update={"high": vocabulary})
        elif self.input.high > vocabulary:
            raise _located(
                SpecError(
                    ("input", "high"), f"tokens up to {self.input.high - 1} do not fit an Embedding of {vocabulary}"
                )
            )
        return self


def _located(fault: SpecError) -> ValidationError:
    """Give the fault a place below this model, wherever the model stands in a larger document."""
    error = PydanticCustomError("invalid_spec", "{detail}", {"detail": fault.detail})
    return ValidationError.from_exception_data(
        "ModelSpec", [InitErrorDetails(type=error, loc=fault.location, input=None)]
    )
