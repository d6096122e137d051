"""Layers whose weight is a matrix over the last axis, or a table of vectors."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gradinspect.contracts.document import Finite
from gradinspect.contracts.spec.layers.layer import (
    Inferred,
    Layer,
    MisfitError,
    Positive,
    Resolved,
    Shape,
    Size,
    need_axes,
)


class Linear(Layer):
    """`torch.nn.Linear`: y = x·Wᵀ + b over the last axis."""

    inferable: ClassVar[frozenset[str]] = frozenset({"in_features"})

    type: Literal["Linear"]
    in_features: Inferred = None
    out_features: Size
    bias: bool = True

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 1, "…, features")
        features = self.settle("in_features", shape[-1], "input features")
        parameters: dict[str, Shape] = {"weight": (self.out_features, features)}
        if self.bias:
            parameters["bias"] = (self.out_features,)
        return Resolved((*shape[:-1], self.out_features), parameters, {"in_features": features})


class Embedding(Layer):
    """`torch.nn.Embedding`: a vector for each token id."""

    takes: ClassVar[Literal["floats", "tokens", "anything"]] = "tokens"

    type: Literal["Embedding"]
    num_embeddings: Size
    embedding_dim: Size
    padding_idx: Annotated[int, Field(ge=-(2**31), le=2**31)] | None = None
    max_norm: Positive | None = None
    norm_type: Finite = 2.0
    scale_grad_by_freq: bool = False

    def resolve(self, shape: Shape) -> Resolved:
        if self.padding_idx is not None and not -self.num_embeddings <= self.padding_idx < self.num_embeddings:
            raise self.refuse("padding_idx", f"it must name one of the {self.num_embeddings} embeddings")
        return Resolved((*shape, self.embedding_dim), {"weight": (self.num_embeddings, self.embedding_dim)})


class EmbeddingBag(Layer):
    """`torch.nn.EmbeddingBag`: one vector for all tokens of a sample, their embeddings' mean, sum or maximum."""

    takes: ClassVar[Literal["floats", "tokens", "anything"]] = "tokens"

    type: Literal["EmbeddingBag"]
    num_embeddings: Size
    embedding_dim: Size
    max_norm: Positive | None = None
    norm_type: Finite = 2.0
    scale_grad_by_freq: bool = False
    mode: Literal["sum", "mean", "max"] = "mean"
    padding_idx: Annotated[int, Field(ge=-(2**31), le=2**31)] | None = None

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 1, "tokens", exact=True)
        if self.padding_idx is not None and not -self.num_embeddings <= self.padding_idx < self.num_embeddings:
            raise self.refuse("padding_idx", f"it must name one of the {self.num_embeddings} embeddings")
        if self.mode == "max" and self.scale_grad_by_freq:
            raise self.refuse("scale_grad_by_freq", "torch does not support it with mode 'max'")
        return Resolved((self.embedding_dim,), {"weight": (self.num_embeddings, self.embedding_dim)})


class PositionalEmbedding(Layer):
    """Not in torch: adds a learned vector for each position; `weight` has one row for each.

    Takes (time, features) and starts from N(0, 0.02²), as GPT-2 does.
    """

    inferable: ClassVar[frozenset[str]] = frozenset({"num_positions", "embedding_dim"})

    type: Literal["PositionalEmbedding"]
    num_positions: Inferred = None
    embedding_dim: Inferred = None

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 2, "time, features", exact=True)
        width = self.settle("embedding_dim", shape[1], "input features")
        positions = self.num_positions or shape[0]
        if shape[0] > positions:
            raise MisfitError(f"expects at most {positions} positions", field="num_positions", gets=shape[0])
        return Resolved(shape, {"weight": (positions, width)}, {"num_positions": positions, "embedding_dim": width})
