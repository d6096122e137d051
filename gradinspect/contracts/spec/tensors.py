"""Allowed types, shapes and sizes of a request's tensors."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gradinspect.contracts.document import Document

MAX_ELEMENTS = 2**31  # chosen: 8 GiB of float32, above what any inspection needs and below any overflow

FloatType = Literal["float32", "float64", "float16", "bfloat16"]
IntegerType = Literal["int64", "int32"]
Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
BoundedShape = Annotated[tuple[Size, ...], Field(max_length=8)]


class SampleInput(Document):
    """One model input, without the batch axis."""

    shape: BoundedShape
    dtype: FloatType | IntegerType = "float32"

    @model_validator(mode="after")
    def _bounded(self) -> SampleInput:
        if prod(self.shape) > MAX_ELEMENTS:
            raise ValueError(f"shape {list(self.shape)} has more than {MAX_ELEMENTS} elements; use a smaller one")
        return self
