"""Padding of the spatial axes, without parameters. Inputs are (channels, *spatial)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from gradinspect.contracts.document import Finite, number_or_list
from gradinspect.contracts.spec.layers.convolution import SPATIAL
from gradinspect.contracts.spec.layers.layer import MAX_SIZE, Layer, Resolved, Shape, need_axes

PadSize = Annotated[int, Field(ge=0, le=MAX_SIZE)]
PadSizes = Annotated[
    Annotated[PadSize, Tag("number")] | Annotated[tuple[PadSize, ...], Field(min_length=2, max_length=6), Tag("list")],
    Discriminator(number_or_list),
]


class _Pad(Layer):
    axes: ClassVar[int]
    # The largest padding for an axis of n: unlimited, n − 1 (reflection), or n (circular).
    room: ClassVar[int | None] = None
    padding: PadSizes = Field(description="One width for all sides, or (before, after) for each axis, the last first.")

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, self.axes + 1, SPATIAL[self.axes], exact=True)
        sides = self.spread("padding", 2 * self.axes)
        spatial = []
        for size, before, after in zip(reversed(shape[1:]), sides[::2], sides[1::2], strict=True):
            if self.room is not None and max(before, after) > size + self.room:
                raise self.refuse("padding", f"{max(before, after)} is too wide for an axis of {size}")
            spatial.append(before + size + after)
        return Resolved((shape[0], *reversed(spatial)))


class ZeroPad1d(_Pad):
    """`torch.nn.ZeroPad1d`."""

    axes: ClassVar[int] = 1
    type: Literal["ZeroPad1d"]


class ZeroPad2d(_Pad):
    """`torch.nn.ZeroPad2d`."""

    axes: ClassVar[int] = 2
    type: Literal["ZeroPad2d"]


class ZeroPad3d(_Pad):
    """`torch.nn.ZeroPad3d`."""

    axes: ClassVar[int] = 3
    type: Literal["ZeroPad3d"]


class ConstantPad1d(_Pad):
    """`torch.nn.ConstantPad1d`."""

    axes: ClassVar[int] = 1
    type: Literal["ConstantPad1d"]
    value: Finite


class ConstantPad2d(_Pad):
    """`torch.nn.ConstantPad2d`."""

    axes: ClassVar[int] = 2
    type: Literal["ConstantPad2d"]
    value: Finite


class ConstantPad3d(_Pad):
    """`torch.nn.ConstantPad3d`."""

    axes: ClassVar[int] = 3
    type: Literal["ConstantPad3d"]
    value: Finite


class ReflectionPad1d(_Pad):
    """`torch.nn.ReflectionPad1d`."""

    axes: ClassVar[int] = 1
    room: ClassVar[int | None] = -1
    type: Literal["ReflectionPad1d"]


class ReflectionPad2d(_Pad):
    """`torch.nn.ReflectionPad2d`."""

    axes: ClassVar[int] = 2
    room: ClassVar[int | None] = -1
    type: Literal["ReflectionPad2d"]


class ReflectionPad3d(_Pad):
    """`torch.nn.ReflectionPad3d`."""

    axes: ClassVar[int] = 3
    room: ClassVar[int | None] = -1
    type: Literal["ReflectionPad3d"]


class ReplicationPad1d(_Pad):
    """`torch.nn.ReplicationPad1d`."""

    axes: ClassVar[int] = 1
    type: Literal["ReplicationPad1d"]


class ReplicationPad2d(_Pad):
    """`torch.nn.ReplicationPad2d`."""

    axes: ClassVar[int] = 2
    type: Literal["ReplicationPad2d"]


class ReplicationPad3d(_Pad):
    """`torch.nn.ReplicationPad3d`."""

    axes: ClassVar[int] = 3
    type: Literal["ReplicationPad3d"]


class CircularPad1d(_Pad):
    """`torch.nn.CircularPad1d`."""

    axes: ClassVar[int] = 1
    room: ClassVar[int | None] = 0
    type: Literal["CircularPad1d"]


class CircularPad2d(_Pad):
    """`torch.nn.CircularPad2d`."""

    axes: ClassVar[int] = 2
    room: ClassVar[int | None] = 0
    type: Literal["CircularPad2d"]


class CircularPad3d(_Pad):
    """`torch.nn.CircularPad3d`."""

    axes: ClassVar[int] = 3
    room: ClassVar[int | None] = 0
    type: Literal["CircularPad3d"]
