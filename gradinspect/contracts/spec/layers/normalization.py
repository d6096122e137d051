"""Normalisation. An `init` of a container does not apply: these are meant to start at scale 1 and shift 0."""

from __future__ import annotations

from math import prod
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from gradinspect.contracts.document import Finite, number_or_list
from gradinspect.contracts.spec.layers.convolution import SPATIAL
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

Momentum = Annotated[Finite, Field(ge=0, le=1)]
SizeOrSizes = Annotated[
    Annotated[Size, Tag("number")] | Annotated[tuple[Size, ...], Field(min_length=1, max_length=8), Tag("list")],
    Discriminator(number_or_list),
]


class _Normalization(Layer):
    inherits_init: ClassVar[bool] = False


class _ChannelNorm(_Normalization):
    inferable: ClassVar[frozenset[str]] = frozenset({"num_features"})
    axes: ClassVar[int]

    num_features: Inferred = None
    eps: Positive = 1e-5

    def normalized(self, shape: Shape, *, affine: bool, bias: bool) -> Resolved:
        """Return one scale and one shift for each channel."""
        channels = self.settle("num_features", shape[0], "channels")
        names = ("weight", "bias") if bias else ("weight",)
        parameters: dict[str, Shape] = dict.fromkeys(names, (channels,)) if affine else {}
        return Resolved(shape, parameters, {"num_features": channels})


class _BatchNorm(_ChannelNorm):
    momentum: Momentum | None = Field(default=0.1, description="null: running statistics are plain means.")
    affine: bool = True
    track_running_stats: bool = True
    bias: bool = True

    def resolve(self, shape: Shape) -> Resolved:
        if not (self.axes == 1 and len(shape) == 1):
            need_axes(shape, self.axes + 1, SPATIAL[self.axes], exact=True)
        return self.normalized(shape, affine=self.affine, bias=self.bias)


class BatchNorm1d(_BatchNorm):
    """`torch.nn.BatchNorm1d`: takes (features) or (channels, length)."""

    axes: ClassVar[int] = 1
    type: Literal["BatchNorm1d"]


class BatchNorm2d(_BatchNorm):
    """`torch.nn.BatchNorm2d`."""

    axes: ClassVar[int] = 2
    type: Literal["BatchNorm2d"]


class BatchNorm3d(_BatchNorm):
    """`torch.nn.BatchNorm3d`."""

    axes: ClassVar[int] = 3
    type: Literal["BatchNorm3d"]


class _InstanceNorm(_ChannelNorm):
    momentum: Momentum = 0.1
    affine: bool = False
    track_running_stats: bool = False
    bias: bool = True

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, self.axes + 1, SPATIAL[self.axes], exact=True)
        if prod(shape[1:]) < 2:
            raise MisfitError("expects more than one position to normalise over", gets=list(shape))
        return self.normalized(shape, affine=self.affine, bias=self.bias)


class InstanceNorm1d(_InstanceNorm):
    """`torch.nn.InstanceNorm1d`."""

    axes: ClassVar[int] = 1
    type: Literal["InstanceNorm1d"]


class InstanceNorm2d(_InstanceNorm):
    """`torch.nn.InstanceNorm2d`."""

    axes: ClassVar[int] = 2
    type: Literal["InstanceNorm2d"]


class InstanceNorm3d(_InstanceNorm):
    """`torch.nn.InstanceNorm3d`."""

    axes: ClassVar[int] = 3
    type: Literal["InstanceNorm3d"]


class GroupNorm(_Normalization):
    """`torch.nn.GroupNorm`."""

    inferable: ClassVar[frozenset[str]] = frozenset({"num_channels"})

    type: Literal["GroupNorm"]
    num_groups: Size
    num_channels: Inferred = None
    eps: Positive = 1e-5
    affine: bool = True
    bias: bool = True

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 1, "channels, …")
        channels = self.settle("num_channels", shape[0], "channels")
        if channels % self.num_groups:
            raise self.refuse("num_groups", f"{self.num_groups} does not divide the {channels} channels")
        names = ("weight", "bias") if self.bias else ("weight",)
        parameters: dict[str, Shape] = dict.fromkeys(names, (channels,)) if self.affine else {}
        return Resolved(shape, parameters, {"num_channels": channels})


class _ShapeNorm(_Normalization):
    inferable: ClassVar[frozenset[str]] = frozenset({"normalized_shape"})
    normalized_shape: SizeOrSizes | None = Field(default=None, description="Left out: the last axis of what arrives.")
    elementwise_affine: bool = True

    def tail(self, shape: Shape) -> Shape:
        """Return the axes to normalise over, which must be the input's last."""
        need_axes(shape, 1, "…, features")
        if self.normalized_shape is None:
            return shape[-1:]
        normalized = self.normalized_shape if isinstance(self.normalized_shape, tuple) else (self.normalized_shape,)
        if shape[-len(normalized) :] != normalized:
            raise MisfitError(
                f"expects an input whose last axes are {list(normalized)}", field="normalized_shape", gets=list(shape)
            )
        return normalized


class LayerNorm(_ShapeNorm):
    """`torch.nn.LayerNorm`."""

    type: Literal["LayerNorm"]
    eps: Positive = 1e-5
    bias: bool = True

    def resolve(self, shape: Shape) -> Resolved:
        tail = self.tail(shape)
        names = ("weight", "bias") if self.bias else ("weight",)
        parameters: dict[str, Shape] = dict.fromkeys(names, tail) if self.elementwise_affine else {}
        return Resolved(shape, parameters, {"normalized_shape": tail})


class RMSNorm(_ShapeNorm):
    """`torch.nn.RMSNorm`."""

    type: Literal["RMSNorm"]
    eps: Positive | None = None

    def resolve(self, shape: Shape) -> Resolved:
        tail = self.tail(shape)
        return Resolved(shape, {"weight": tail} if self.elementwise_affine else {}, {"normalized_shape": tail})


class LocalResponseNorm(_Normalization):
    """`torch.nn.LocalResponseNorm`: across neighbouring channels."""

    type: Literal["LocalResponseNorm"]
    size: Size
    alpha: Finite = 1e-4
    beta: Finite = 0.75
    k: Finite = 1.0

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 2, "channels, …")
        return Resolved(shape)
