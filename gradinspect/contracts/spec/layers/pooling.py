"""Pooling over one, two or three axes. Inputs are (channels, *spatial); nothing here has parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from gradinspect.contracts.document import Finite, number_or_list
from gradinspect.contracts.spec.layers.convolution import SPATIAL
from gradinspect.contracts.spec.layers.layer import (
    Layer,
    MisfitError,
    PaddingPerAxis,
    PerAxis,
    Positive,
    Resolved,
    Shape,
    Size,
    need_axes,
)


def _null_number_or_list(value: object) -> str:
    return "null" if value is None else number_or_list(value)


SizeOrSame = Annotated[
    Annotated[Size, Tag("number")]
    | Annotated[tuple[Size | None, ...], Field(min_length=1, max_length=3), Tag("list")]
    | Annotated[None, Tag("null")],
    Discriminator(_null_number_or_list),
]
Ratio = Annotated[Finite, Field(gt=0, lt=1)]
RatioPerAxis = Annotated[
    Annotated[Ratio, Tag("number")] | Annotated[tuple[Ratio, ...], Field(min_length=1, max_length=3), Tag("list")],
    Discriminator(number_or_list),
]


class _Pool(Layer):
    axes: ClassVar[int]
    kernel_size: PerAxis
    stride: PerAxis | None = Field(default=None, description="Left out: the kernel's size.")
    ceil_mode: bool = False

    def pooled(self, shape: Shape, *, padding: Shape, dilation: Shape) -> Resolved:
        """Return the output size; a window that starts beyond the input and its left padding does not count."""
        need_axes(shape, self.axes + 1, SPATIAL[self.axes], exact=True)
        kernel = self.spread("kernel_size", self.axes)
        stride = kernel if self.stride is None else self.spread("stride", self.axes)
        spatial = []
        for size, k, step, pad, d in zip(shape[1:], kernel, stride, padding, dilation, strict=True):
            if 2 * pad > k:
                raise self.refuse("padding", f"{pad} is more than half of the kernel's size, {k}")
            room = size + 2 * pad - d * (k - 1) - 1
            windows = (room + step - 1 if self.ceil_mode else room) // step + 1
            if self.ceil_mode and (windows - 1) * step >= size + pad:
                windows -= 1
            if windows < 1:
                raise MisfitError(
                    f"expects a padded axis of at least {d * (k - 1) + 1}", field="kernel_size", gets=size + 2 * pad
                )
            spatial.append(windows)
        return Resolved((shape[0], *spatial))


class _MaxPool(_Pool):
    padding: PaddingPerAxis = 0
    dilation: PerAxis = 1

    def resolve(self, shape: Shape) -> Resolved:
        padding, dilation = self.spread("padding", self.axes), self.spread("dilation", self.axes)
        return self.pooled(shape, padding=padding, dilation=dilation)


class MaxPool1d(_MaxPool):
    """`torch.nn.MaxPool1d`."""

    axes: ClassVar[int] = 1
    type: Literal["MaxPool1d"]


class MaxPool2d(_MaxPool):
    """`torch.nn.MaxPool2d`."""

    axes: ClassVar[int] = 2
    type: Literal["MaxPool2d"]


class MaxPool3d(_MaxPool):
    """`torch.nn.MaxPool3d`."""

    axes: ClassVar[int] = 3
    type: Literal["MaxPool3d"]


class _AvgPool(_Pool):
    padding: PaddingPerAxis = 0
    count_include_pad: bool = True

    def resolve(self, shape: Shape) -> Resolved:
        return self.pooled(shape, padding=self.spread("padding", self.axes), dilation=(1,) * self.axes)


class AvgPool1d(_AvgPool):
    """`torch.nn.AvgPool1d`."""

    axes: ClassVar[int] = 1
    type: Literal["AvgPool1d"]


class AvgPool2d(_AvgPool):
    """`torch.nn.AvgPool2d`."""

    axes: ClassVar[int] = 2
    type: Literal["AvgPool2d"]
    divisor_override: Size | None = None


class AvgPool3d(_AvgPool):
    """`torch.nn.AvgPool3d`."""

    axes: ClassVar[int] = 3
    type: Literal["AvgPool3d"]
    divisor_override: Size | None = None


class _LPPool(_Pool):
    norm_type: Positive

    def resolve(self, shape: Shape) -> Resolved:
        return self.pooled(shape, padding=(0,) * self.axes, dilation=(1,) * self.axes)

    def arguments(self, inferred: Mapping[str, object]) -> dict[str, object]:
        arguments = super().arguments(inferred)
        if self.axes == 1:  # torch multiplies by it, so a list of one number has to become the number
            arguments["kernel_size"] = self.spread("kernel_size", 1)[0]
        return arguments


class LPPool1d(_LPPool):
    """`torch.nn.LPPool1d`."""

    axes: ClassVar[int] = 1
    type: Literal["LPPool1d"]


class LPPool2d(_LPPool):
    """`torch.nn.LPPool2d`."""

    axes: ClassVar[int] = 2
    type: Literal["LPPool2d"]


class LPPool3d(_LPPool):
    """`torch.nn.LPPool3d`."""

    axes: ClassVar[int] = 3
    type: Literal["LPPool3d"]


class _AdaptivePool(Layer):
    axes: ClassVar[int]
    output_size: SizeOrSame = Field(description="null keeps the size of an axis.")

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, self.axes + 1, SPATIAL[self.axes], exact=True)
        requested = (None,) * self.axes if self.output_size is None else self.spread("output_size", self.axes)
        return Resolved((shape[0], *(size or unchanged for size, unchanged in zip(requested, shape[1:], strict=True))))


class AdaptiveAvgPool1d(_AdaptivePool):
    """`torch.nn.AdaptiveAvgPool1d`."""

    axes: ClassVar[int] = 1
    type: Literal["AdaptiveAvgPool1d"]


class AdaptiveAvgPool2d(_AdaptivePool):
    """`torch.nn.AdaptiveAvgPool2d`."""

    axes: ClassVar[int] = 2
    type: Literal["AdaptiveAvgPool2d"]


class AdaptiveAvgPool3d(_AdaptivePool):
    """`torch.nn.AdaptiveAvgPool3d`."""

    axes: ClassVar[int] = 3
    type: Literal["AdaptiveAvgPool3d"]


class AdaptiveMaxPool1d(_AdaptivePool):
    """`torch.nn.AdaptiveMaxPool1d`."""

    axes: ClassVar[int] = 1
    type: Literal["AdaptiveMaxPool1d"]


class AdaptiveMaxPool2d(_AdaptivePool):
    """`torch.nn.AdaptiveMaxPool2d`."""

    axes: ClassVar[int] = 2
    type: Literal["AdaptiveMaxPool2d"]


class AdaptiveMaxPool3d(_AdaptivePool):
    """`torch.nn.AdaptiveMaxPool3d`."""

    axes: ClassVar[int] = 3
    type: Literal["AdaptiveMaxPool3d"]


class _FractionalMaxPool(Layer):
    axes: ClassVar[int]
    kernel_size: PerAxis
    output_size: PerAxis | None = None
    output_ratio: RatioPerAxis | None = None

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, self.axes + 1, SPATIAL[self.axes], exact=True)
        if (self.output_size is None) == (self.output_ratio is None):
            raise self.refuse("output_size", "give either output_size or output_ratio")
        if self.output_size is not None:
            spatial = self.spread("output_size", self.axes)
        else:
            ratios = self.output_ratio if isinstance(self.output_ratio, tuple) else (self.output_ratio,) * self.axes
            if len(ratios) != self.axes:
                raise self.refuse("output_ratio", f"give one number, or a list of {self.axes}")
            spatial = tuple(int(size * (ratio or 0)) for size, ratio in zip(shape[1:], ratios, strict=True))
        for size, k, output in zip(shape[1:], self.spread("kernel_size", self.axes), spatial, strict=True):
            # torch requires one spare element in three dimensions, and none in two.
            least = output + k - 1 + (self.axes == 3)
            if output < 1 or least > size:
                raise MisfitError(f"expects an axis of at least {max(least, 1)}", field="kernel_size", gets=size)
        return Resolved((shape[0], *spatial))


class FractionalMaxPool2d(_FractionalMaxPool):
    """`torch.nn.FractionalMaxPool2d`."""

    axes: ClassVar[int] = 2
    type: Literal["FractionalMaxPool2d"]


class FractionalMaxPool3d(_FractionalMaxPool):
    """`torch.nn.FractionalMaxPool3d`."""

    axes: ClassVar[int] = 3
    type: Literal["FractionalMaxPool3d"]
