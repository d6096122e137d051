"""The input of a spec: shape and type of one sample, and the range of its tokens."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from gradinspect.contracts.spec.tensors import SampleInput


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
        """Whether the input consists of integers."""
        return self.dtype in ("int64", "int32")
