"""Layers that move, join, drop or interpolate elements and hold no parameters."""

from __future__ import annotations

from math import floor, prod
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from gradinspect.contracts.document import number_or_list
from gradinspect.contracts.spec.layers.convolution import SPATIAL
from gradinspect.contracts.spec.layers.layer import (
    MAX_SIZE,
    AxisIndex,
    Layer,
    MisfitError,
    PaddingPerAxis,
    PerAxis,
    Positive,
    Resolved,
    Shape,
    Size,
    axis,
    need_axes,
)

AxisIndices = Annotated[tuple[AxisIndex, ...], Field(min_length=1, max_length=9)]


class Flatten(Layer):
    """`torch.nn.Flatten`."""

    takes: ClassVar[Literal["floats", "tokens", "anything"]] = "anything"

    type: Literal["Flatten"]
    start_dim: AxisIndex = 1
    end_dim: AxisIndex = -1

    def resolve(self, shape: Shape) -> Resolved:
        if not shape and (self.start_dim, self.end_dim) == (1, -1):
            raise MisfitError("expects at least one axis to flatten", gets=[])
        start, end = (
            axis(self.start_dim, shape, self, field="start_dim"),
            axis(self.end_dim, shape, self, field="end_dim"),
        )
        if start > end:
            raise self.refuse("start_dim", "it comes after end_dim")
        return Resolved((*shape[:start], prod(shape[start : end + 1]), *shape[end + 1 :]))


class Unflatten(Layer):
    """`torch.nn.Unflatten`."""

    takes: ClassVar[Literal["floats", "tokens", "anything"]] = "anything"

    type: Literal["Unflatten"]
    dim: AxisIndex
    unflattened_size: Annotated[
        tuple[Annotated[int, Field(ge=-1, le=MAX_SIZE)], ...], Field(min_length=1, max_length=8)
    ] = Field(description="One entry may be -1.")

    def resolve(self, shape: Shape) -> Resolved:
        index = axis(self.dim, shape, self)
        sizes = list(self.unflattened_size)
        if 0 in sizes or sizes.count(-1) > 1:
            raise self.refuse("unflattened_size", "sizes are at least 1, and one of them may be -1")
        known = prod(size for size in sizes if size > 0)
        if -1 in sizes and shape[index] % known == 0:
            sizes[sizes.index(-1)] = shape[index] // known
        if prod(sizes) != shape[index]:
            raise MisfitError(
                f"expects a size that {list(self.unflattened_size)} multiplies to", field="unflattened_size",
                gets=shape[index],
            )  # fmt: skip
        return Resolved((*shape[:index], *sizes, *shape[index + 1 :]))


class Permute(Layer):
    """Not a module of torch: `torch.permute`. `dims` counts the batch axis and keeps it first, as in [0, 2, 1]."""

    takes: ClassVar[Literal["floats", "tokens", "anything"]] = "anything"

    type: Literal["Permute"]
    dims: AxisIndices

    def resolve(self, shape: Shape) -> Resolved:
        total = len(shape) + 1
        order = [dim + total if dim < 0 else dim for dim in self.dims]
        if sorted(order) != list(range(total)) or order[0] != 0:
            raise self.refuse("dims", f"name each axis of a tensor of shape {['batch', *shape]} once, the batch first")
        return Resolved(tuple(shape[dim - 1] for dim in order[1:]))


class Mean(Layer):
    """Not in torch: the mean over one axis, such as time after an encoder. `dim` counts the batch axis."""

    type: Literal["Mean"]
    dim: AxisIndex
    keepdim: bool = False

    def resolve(self, shape: Shape) -> Resolved:
        index = axis(self.dim, shape, self)
        return Resolved((*shape[:index], *((1,) if self.keepdim else ()), *shape[index + 1 :]))


class PixelShuffle(Layer):
    """`torch.nn.PixelShuffle`: (channels·r², height, width) to (channels, height·r, width·r)."""

    type: Literal["PixelShuffle"]
    upscale_factor: Size

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 3, SPATIAL[2], exact=True)
        channels, height, width = shape
        r = self.upscale_factor
        if channels % r**2:
            raise MisfitError(f"expects channels divisible by {r**2}", field="upscale_factor", gets=channels)
        return Resolved((channels // r**2, height * r, width * r))


class PixelUnshuffle(Layer):
    """`torch.nn.PixelUnshuffle`: the reverse of PixelShuffle."""

    type: Literal["PixelUnshuffle"]
    downscale_factor: Size

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 3, SPATIAL[2], exact=True)
        channels, height, width = shape
        r = self.downscale_factor
        if height % r or width % r:
            raise MisfitError(
                f"expects height and width divisible by {r}", field="downscale_factor", gets=[height, width]
            )
        return Resolved((channels * r**2, height // r, width // r))


class ChannelShuffle(Layer):
    """`torch.nn.ChannelShuffle`."""

    type: Literal["ChannelShuffle"]
    groups: Size

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 2, "channels, …")
        if shape[0] % self.groups:
            raise MisfitError(f"expects channels divisible by {self.groups}", field="groups", gets=shape[0])
        return Resolved(shape)


class _Patches(Layer):
    kernel_size: PerAxis
    dilation: PerAxis = 1
    padding: PaddingPerAxis = 0
    stride: PerAxis = 1

    def positions(self, image: Shape) -> Shape:
        """Count the kernel's positions on each axis of an image."""
        sizes = []
        for size, kernel, dilation, padding, stride in zip(
            image, self.spread("kernel_size", 2), self.spread("dilation", 2), self.spread("padding", 2),
            self.spread("stride", 2), strict=True,
        ):  # fmt: skip
            room = size + 2 * padding - dilation * (kernel - 1) - 1
            if room < 0:
                raise MisfitError(
                    f"expects a padded axis of at least {dilation * (kernel - 1) + 1}", field="kernel_size",
                    gets=size + 2 * padding,
                )  # fmt: skip
            sizes.append(room // stride + 1)
        return tuple(sizes)


class Unfold(_Patches):
    """`torch.nn.Unfold`: (channels, height, width) to (channels·kernel, positions)."""

    type: Literal["Unfold"]

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 3, SPATIAL[2], exact=True)
        return Resolved((shape[0] * prod(self.spread("kernel_size", 2)), prod(self.positions(shape[1:]))))


class Fold(_Patches):
    """`torch.nn.Fold`: (channels·kernel, positions) to (channels, height, width), overlaps added."""

    type: Literal["Fold"]
    output_size: PerAxis

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 2, "channels·kernel, positions", exact=True)
        kernel, image = prod(self.spread("kernel_size", 2)), self.spread("output_size", 2)
        if shape[0] % kernel:
            raise MisfitError(f"expects a first axis divisible by {kernel}", field="kernel_size", gets=shape[0])
        if prod(self.positions(image)) != shape[1]:
            raise MisfitError(f"expects {prod(self.positions(image))} positions", field="output_size", gets=shape[1])
        return Resolved((shape[0] // kernel, *image))


_MODES: dict[str, tuple[int, ...]] = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
}
FactorPerAxis = Annotated[
    Annotated[Positive, Tag("number")]
    | Annotated[tuple[Positive, ...], Field(min_length=1, max_length=3), Tag("list")],
    Discriminator(number_or_list),
]


class _Upsampling2d(Layer):
    size: PerAxis | None = None
    scale_factor: FactorPerAxis | None = None

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 3, SPATIAL[2], exact=True)
        return Upsample(type="Upsample", size=self.size, scale_factor=self.scale_factor).resolve(shape)


class UpsamplingNearest2d(_Upsampling2d):
    """`torch.nn.UpsamplingNearest2d`."""

    type: Literal["UpsamplingNearest2d"]


class UpsamplingBilinear2d(_Upsampling2d):
    """`torch.nn.UpsamplingBilinear2d`: corners aligned."""

    type: Literal["UpsamplingBilinear2d"]


class Upsample(Layer):
    """`torch.nn.Upsample`."""

    type: Literal["Upsample"]
    size: PerAxis | None = None
    scale_factor: FactorPerAxis | None = None
    mode: Literal["nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear"] = "nearest"
    align_corners: bool | None = None
    recompute_scale_factor: bool | None = None

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 2, "channels, …")
        axes = len(shape) - 1
        if axes not in _MODES[self.mode]:
            raise self.refuse("mode", f"{self.mode!r} does not work on {axes} spatial axes")
        if self.align_corners is not None and self.mode in ("nearest", "nearest-exact"):
            raise self.refuse("align_corners", f"it does not go with mode {self.mode!r}")
        if (self.size is None) == (self.scale_factor is None):
            raise self.refuse("size", "give either size or scale_factor")
        if self.size is not None:
            if self.recompute_scale_factor:
                raise self.refuse("recompute_scale_factor", "it goes with scale_factor only")
            return Resolved((shape[0], *self.spread("size", axes)))
        factors = self.scale_factor if isinstance(self.scale_factor, tuple) else (self.scale_factor,) * axes
        if len(factors) != axes:
            raise self.refuse("scale_factor", f"give one number, or a list of {axes}")
        spatial = [floor(size * float(factor or 0)) for size, factor in zip(shape[1:], factors, strict=True)]
        if any(size < 1 for size in spatial):
            raise self.refuse("scale_factor", f"nothing is left of the output, {spatial}")
        return Resolved((shape[0], *spatial))
