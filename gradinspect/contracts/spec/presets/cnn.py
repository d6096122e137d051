"""Convolutions in stages, each half as large as the one before."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradinspect.contracts.spec.presets.preset import Activation, Drop, Json, Preset, PresetError, Width
from gradinspect.contracts.spec.spec_input import SpecInput


class CnnPreset(Preset):
    """Stages of `Conv, norm, activation`, pooling between them, the mean over all positions, and a Linear head.

    Works on (channels, length), (channels, height, width) and (channels, depth, height, width).
    """

    preset: Literal["cnn"]
    input: SpecInput = SpecInput(shape=(3, 32, 32))
    channels: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)] = (32, 64, 128)
    convolutions_per_stage: Annotated[int, Field(ge=1, le=64)] = 1
    kernel_size: Annotated[int, Field(ge=1, le=31)] = Field(default=3, description="Odd, so that sizes stay.")
    activation: Activation = "ReLU"
    norm: Literal["BatchNorm", "InstanceNorm"] | None = "BatchNorm"
    pooling: Literal["max", "avg"] | None = Field(default="max", description="Between stages; null halves nothing.")
    dropout: Drop = Field(default=0.0, description="In front of the head.")

    def layers(self) -> list[Json]:
        self.need_floats()
        self.need_axes((2, 3, 4), "channels, height, width")
        axes = len(self.input.shape) - 1
        if self.kernel_size % 2 == 0:
            raise PresetError(("kernel_size",), f"{self.kernel_size} is even; take {self.kernel_size + 1}")
        smallest, halvings = min(self.input.shape[1:]), len(self.channels) - 1 if self.pooling else 0
        if smallest >> halvings < 1:
            raise PresetError(
                ("channels",), f"{len(self.channels)} stages halve an axis of {smallest} {halvings} times, and nothing "
                f"is left; give at most {smallest.bit_length()} stages, or pooling null"
            )  # fmt: skip
        written: list[Json] = []
        for stage, channels in enumerate(self.channels):
            if stage and self.pooling is not None:
                kind = {"max": "MaxPool", "avg": "AvgPool"}[self.pooling]
                written.append({"type": f"{kind}{axes}d", "kernel_size": 2})
            for _ in range(self.convolutions_per_stage):
                written += self.convolution(channels, axes)
        written += [{"type": f"AdaptiveAvgPool{axes}d", "output_size": 1}, {"type": "Flatten"}]
        if self.dropout:
            written.append({"type": "Dropout", "p": self.dropout})
        return [*written, {"type": "Linear", "out_features": self.num_classes, "name": "head"}]

    def convolution(self, channels: int, axes: int) -> list[Json]:
        """Return one convolution with norm and activation; the norm's shift replaces the bias."""
        convolution: Json = {"type": f"Conv{axes}d", "out_channels": channels, "kernel_size": self.kernel_size}
        if self.kernel_size > 1:
            convolution["padding"] = self.kernel_size // 2
        if self.norm is not None:
            convolution["bias"] = False
        norm: list[Json] = []
        if self.norm is not None:
            norm = [{"type": f"{self.norm}{axes}d"} | ({"affine": True} if self.norm == "InstanceNorm" else {})]
        return [convolution, *norm, {"type": self.activation}]
