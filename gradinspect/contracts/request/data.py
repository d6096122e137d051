"""The input data of a model: synthetic tensors by kind, or the tensors of a safetensors artifact."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from gradinspect.contracts.document import Digest, Document, Finite, Name
from gradinspect.contracts.spec.tensors import MAX_ELEMENTS, BoundedShape, FloatType, IntegerType


class _Tensor(Document):
    shape: BoundedShape = Field(description="The whole shape; the first axis counts samples.")

    @model_validator(mode="after")
    def _bounded(self) -> _Tensor:
        if prod(self.shape) > MAX_ELEMENTS:
            raise ValueError(f"shape {list(self.shape)} has more than {MAX_ELEMENTS} elements; use a smaller batch")
        return self


class NormalTensor(_Tensor):
    """Independent draws from N(mean, std²)."""

    kind: Literal["normal"]
    dtype: FloatType = "float32"
    mean: Finite = 0.0
    std: Annotated[Finite, Field(ge=0)] = 1.0


class UniformTensor(_Tensor):
    """Independent draws from U[low, high)."""

    kind: Literal["uniform"]
    dtype: FloatType = "float32"
    low: Finite = 0.0
    high: Finite = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> UniformTensor:
        if not self.low < self.high:
            raise ValueError("low must be smaller than high")
        return self


class IntegersTensor(_Tensor):
    """Independent draws from {low, …, high − 1}: token ids, categories."""

    kind: Literal["integers"]
    dtype: IntegerType = "int64"
    low: int = 0
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> IntegersTensor:
        if not self.low < self.high:
            raise ValueError("low must be smaller than high")
        return self


class ConstantTensor(_Tensor):
    """Every element has the same value."""

    kind: Literal["constant"]
    dtype: FloatType | IntegerType = "float32"
    value: Finite


TensorSource = Annotated[NormalTensor | UniformTensor | IntegersTensor | ConstantTensor, Field(discriminator="kind")]


class ClassesTarget(Document):
    """Class indices drawn uniformly from {0, …, num_classes − 1}, one per output position."""

    kind: Literal["classes"]
    num_classes: Annotated[int, Field(ge=1, le=2**31 - 1)]
    shape: BoundedShape | None = Field(default=None, description="Left out: one class per output position.")


class NormalTarget(Document):
    """Standard normal values, in the shape of the output unless `shape` says otherwise."""

    kind: Literal["normal"]
    shape: BoundedShape | None = None


class BinaryTarget(Document):
    """Zeros and ones with equal probability, in the shape of the output unless `shape` says otherwise."""

    kind: Literal["binary"]
    shape: BoundedShape | None = None


TargetSource = Annotated[ClassesTarget | NormalTarget | BinaryTarget, Field(discriminator="kind")]


class SyntheticData(Document):
    """Tensors drawn from the seed; omitted fields follow from the model's input, its output and the loss."""

    inputs: Annotated[tuple[TensorSource, ...], Field(min_length=1, max_length=16)] | None = None
    target: TargetSource | None = None
    samples: Annotated[int, Field(ge=1, le=2**20)] | None = Field(
        default=None, description="Batch size when `inputs` is left out; 128 by default."
    )

    @model_validator(mode="after")
    def _same_samples(self) -> SyntheticData:
        if self.inputs is not None:
            if self.samples is not None:
                raise ValueError("samples goes with default inputs; with `inputs`, their first axis is the batch")
            if any(not tensor.shape for tensor in self.inputs):
                raise ValueError("every input needs at least one axis; the first counts samples")
            if len({tensor.shape[0] for tensor in self.inputs}) > 1:
                raise ValueError("the inputs differ in their first axis; all must hold the same number of samples")
        return self


class ArtifactData(Document):
    """Tensors of an uploaded safetensors file; their first axis counts samples."""

    artifact: Digest
    inputs: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)]
    target: Name | None = None


def _origin(value: object) -> str:
    read = isinstance(value, ArtifactData) or (isinstance(value, dict) and "artifact" in value)
    return "(read)" if read else "(drawn)"


Data = Annotated[
    Annotated[SyntheticData, Tag("(drawn)")] | Annotated[ArtifactData, Tag("(read)")], Discriminator(_origin)
]
