"""Residual networks of basic blocks with batch normalisation: He et al. 2016, initialised as in torchvision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradinspect.contracts.spec.presets.preset import Json, Preset, PresetError, Width
from gradinspect.contracts.spec.spec_input import SpecInput

LARGE_IMAGE = 128  # chosen: images of at least this size get ImageNet's stem (stride 2, then pooling)
HE_FAN_OUT = {"weight": {"name": "kaiming_normal_", "mode": "fan_out", "nonlinearity": "relu"}}


class ResnetPreset(Preset):
    """A stem, stages of basic blocks that double the channels and halve the image, the mean, and a Linear head.

    `blocks: [2, 2, 2, 2]` is ResNet-18, `[3, 4, 6, 3]` ResNet-34, `[3, 3, 3]` with width 16 CIFAR's ResNet-20.
    """

    preset: Literal["resnet"]
    input: SpecInput = SpecInput(shape=(3, 32, 32))
    blocks: Annotated[tuple[Annotated[int, Field(ge=1, le=512)], ...], Field(min_length=1, max_length=8)] = (2, 2, 2, 2)
    width: Width = Field(default=64, description="Channels of the first stage.")
    stem: Literal["small", "large"] | None = Field(
        default=None,
        description="small: one 3×3 convolution; large: 7×7 with stride 2, then pooling. Left out: by the image.",
    )
    zero_init_residual: bool = Field(default=False, description="Blocks start as the identity: last norm's scale is 0.")

    def layers(self) -> list[Json]:
        self.need_floats()
        self.need_axes((3,), "channels, height, width")
        widest = self.width * 2 ** (len(self.blocks) - 1)
        if widest > 2**20:
            raise PresetError(("width",), f"it doubles with each stage, to {widest}; at most {2**20} channels")
        large = self.stem == "large" or (self.stem is None and min(self.input.shape[1:]) >= LARGE_IMAGE)
        written = self.first(large)
        channels = self.width
        for stage, count in enumerate(self.blocks):
            for index in range(count):
                after = self.width * 2**stage
                stride = 2 if stage and index == 0 else 1
                written += self.block(f"stage{stage + 1}_block{index + 1}", channels, after, stride)
                channels = after
        written += [{"type": "AdaptiveAvgPool2d", "output_size": 1}, {"type": "Flatten"}]
        return [*written, {"type": "Linear", "out_features": self.num_classes, "name": "head"}]

    def first(self, large: bool) -> list[Json]:
        """Return the stem."""
        if not large:
            return [self.convolution(self.width, 3, 1), {"type": "BatchNorm2d"}, {"type": "ReLU"}]
        return [
            self.convolution(self.width, 7, 2), {"type": "BatchNorm2d"}, {"type": "ReLU"},
            {"type": "MaxPool2d", "kernel_size": 3, "stride": 2, "padding": 1},
        ]  # fmt: skip

    def block(self, name: str, before: int, after: int, stride: int) -> list[Json]:
        """Return two convolutions with a skip connection, and the ReLU after the sum."""
        last: Json = {"type": "BatchNorm2d"}
        if self.zero_init_residual:
            last["init"] = {"weight": {"name": "zeros_"}}
        block: Json = {
            "type": "Residual",
            "name": name,
            "layers": [
                self.convolution(after, 3, stride), {"type": "BatchNorm2d"}, {"type": "ReLU"},
                self.convolution(after, 3, 1), last,
            ],
        }  # fmt: skip
        if stride != 1 or before != after:
            block["shortcut"] = [self.convolution(after, 1, stride), {"type": "BatchNorm2d"}]
        return [block, {"type": "ReLU"}]

    def convolution(self, channels: int, kernel: int, stride: int) -> Json:
        """Return a convolution without bias; He's normal by fan-out unless the caller sets an init."""
        written: Json = {"type": "Conv2d", "out_channels": channels, "kernel_size": kernel, "bias": False}
        if stride > 1:
            written["stride"] = stride
        if kernel > 1:
            written["padding"] = kernel // 2
        return written if self.init is not None else written | {"init": HE_FAN_OUT}
