"""Convolutions and transposed convolutions over one, two or three axes. Inputs are (channels, *spatial)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from gradinspect.contracts.spec.layers.layer import (
    Inferred,
    Layer,
    MisfitError,
    PaddingPerAxis,
    PaddingSize,
    PerAxis,
    Resolved,
    Shape,
    Size,
    need_axes,
)

SPATIAL = {1: "channels, length", 2: "channels, height, width", 3: "channels, depth, height, width"}
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def _form(value: object) -> str:
    if isinstance(value, str):
        return "word"
    return "list" if isinstance(value, list | tuple) else "number"


Padding = Annotated[
    Annotated[PaddingSize, Tag("number")]
    | Annotated[tuple[PaddingSize, ...], Field(min_length=1, max_length=3), Tag("list")]
    | Annotated[Literal["same", "valid"], Tag("word")],
    Discriminator(_form),
]


class _Convolution(Layer):
    inferable: ClassVar[frozenset[str]] = frozenset({"in_channels"})
    axes: ClassVar[int]

    in_channels: Inferred = None
    out_channels: Size
    kernel_size: PerAxis
    stride: PerAxis = 1
    groups: Size = 1
    bias: bool = True
    dilation: PerAxis = 1

    def channels(self, shape: Shape) -> int:
        """Return the input channels; refuse groups that do not divide them."""
        need_axes(shape, self.axes + 1, SPATIAL[self.axes], exact=True)
        channels = self.settle("in_channels", shape[0], "input channels")
        if channels % self.groups:
            raise self.refuse("groups", f"{self.groups} does not divide the {channels} input channels")
        if self.out_channels % self.groups:
            raise self.refuse("groups", f"{self.groups} does not divide out_channels, {self.out_channels}")
        return channels

    def resolved(self, spatial: Shape, weight: Shape, channels: int) -> Resolved:
        """Return the shapes and the parameters."""
        parameters: dict[str, Shape] = {"weight": weight}
        if self.bias:
            parameters["bias"] = (self.out_channels,)
        return Resolved((self.out_channels, *spatial), parameters, {"in_channels": channels})


class _Forward(_Convolution):
    padding: Padding = 0
    padding_mode: PaddingMode = "zeros"

    def resolve(self, shape: Shape) -> Resolved:
        channels = self.channels(shape)
        kernel = self.spread("kernel_size", self.axes)
        stride, dilation = self.spread("stride", self.axes), self.spread("dilation", self.axes)
        reach = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        if self.padding == "same":
            if any(step != 1 for step in stride):
                raise self.refuse("padding", "'same' needs stride 1; give a number instead")
            total, widest = reach, tuple(r - r // 2 for r in reach)
        else:
            widest = (0,) * self.axes if self.padding == "valid" else self.spread("padding", self.axes)
            total = tuple(2 * p for p in widest)
        for size, pad in zip(shape[1:], widest, strict=True):
            if (self.padding_mode == "reflect" and pad >= size) or (self.padding_mode == "circular" and pad > size):
                raise self.refuse("padding", f"{self.padding_mode} padding of {pad} is too wide for an axis of {size}")
        spatial = tuple(
            (size + pad - r - 1) // step + 1 for size, pad, r, step in zip(shape[1:], total, reach, stride, strict=True)
        )
        if any(size + pad < r + 1 for size, pad, r in zip(shape[1:], total, reach, strict=True)):
            raise MisfitError(
                f"expects a padded input at least as large as its kernel, {[r + 1 for r in reach]}",
                field="kernel_size", gets=[size + pad for size, pad in zip(shape[1:], total, strict=True)],
            )  # fmt: skip
        return self.resolved(spatial, (self.out_channels, channels // self.groups, *kernel), channels)


class Conv1d(_Forward):
    """`torch.nn.Conv1d`."""

    axes: ClassVar[int] = 1
    type: Literal["Conv1d"]


class Conv2d(_Forward):
    """`torch.nn.Conv2d`."""

    axes: ClassVar[int] = 2
    type: Literal["Conv2d"]


class Conv3d(_Forward):
    """`torch.nn.Conv3d`."""

    axes: ClassVar[int] = 3
    type: Literal["Conv3d"]


class _Transposed(_Convolution):
    padding: PaddingPerAxis = 0
    output_padding: PaddingPerAxis = 0
    padding_mode: Literal["zeros"] = "zeros"

    def resolve(self, shape: Shape) -> Resolved:
        channels = self.channels(shape)
        kernel = self.spread("kernel_size", self.axes)
        spatial = []
        for size, k, step, d, pad, extra in zip(
            shape[1:], kernel, self.spread("stride", self.axes), self.spread("dilation", self.axes),
            self.spread("padding", self.axes), self.spread("output_padding", self.axes), strict=True,
        ):  # fmt: skip
            if extra >= max(step, d):
                raise self.refuse("output_padding", "it must be smaller than stride or dilation")
            spatial.append((size - 1) * step - 2 * pad + d * (k - 1) + extra + 1)
        if any(size < 1 for size in spatial):
            raise self.refuse("padding", f"nothing is left of the output, {spatial}")
        weight = (channels, self.out_channels // self.groups, *kernel)
        return self.resolved(tuple(spatial), weight, channels)


class ConvTranspose1d(_Transposed):
    """`torch.nn.ConvTranspose1d`."""

    axes: ClassVar[int] = 1
    type: Literal["ConvTranspose1d"]


class ConvTranspose2d(_Transposed):
    """`torch.nn.ConvTranspose2d`."""

    axes: ClassVar[int] = 2
    type: Literal["ConvTranspose2d"]


class ConvTranspose3d(_Transposed):
    """`torch.nn.ConvTranspose3d`."""

    axes: ClassVar[int] = 3
    type: Literal["ConvTranspose3d"]
