"""Dropout: of elements, or of whole channels. Active in training mode only."""

from __future__ import annotations

from typing import ClassVar, Literal

from gradinspect.contracts.spec.layers.layer import Layer, Probability, Resolved, Shape, need_axes


class _Dropout(Layer):
    p: Probability = 0.5
    inplace: bool = False

    def resolve(self, shape: Shape) -> Resolved:
        return Resolved(shape)


class Dropout(_Dropout):
    """`torch.nn.Dropout`."""

    type: Literal["Dropout"]


class AlphaDropout(_Dropout):
    """`torch.nn.AlphaDropout`: keeps mean and variance of SELU networks."""

    type: Literal["AlphaDropout"]


class _ChannelDropout(_Dropout):
    axes: ClassVar[tuple[int, str]]

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, *self.axes, exact=True)
        return Resolved(shape)


class Dropout1d(_ChannelDropout):
    """`torch.nn.Dropout1d`: drops whole channels."""

    axes: ClassVar[tuple[int, str]] = (2, "channels, length")
    type: Literal["Dropout1d"]


class Dropout2d(_ChannelDropout):
    """`torch.nn.Dropout2d`: drops whole channels."""

    axes: ClassVar[tuple[int, str]] = (3, "channels, height, width")
    type: Literal["Dropout2d"]


class Dropout3d(_ChannelDropout):
    """`torch.nn.Dropout3d`: drops whole channels."""

    axes: ClassVar[tuple[int, str]] = (4, "channels, depth, height, width")
    type: Literal["Dropout3d"]


class FeatureAlphaDropout(_Dropout):
    """`torch.nn.FeatureAlphaDropout`: AlphaDropout of whole channels."""

    type: Literal["FeatureAlphaDropout"]
