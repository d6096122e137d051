"""Linear layers in a row, with norm, activation and dropout between them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradinspect.contracts.spec.presets.preset import Activation, Depth, Drop, Json, Preset, PresetError, Width
from gradinspect.contracts.spec.spec_input import SpecInput

DEFAULT_WIDTH, DEFAULT_DEPTH = 256, 4


class MlpPreset(Preset):
    """Hidden layers `Linear, norm, activation, dropout`, then a Linear head; more than one input axis is flattened."""

    preset: Literal["mlp"]
    input: SpecInput = SpecInput(shape=(784,))
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="Width of each hidden layer; instead of width and depth."
    )
    width: Width | None = Field(default=None, description="Width of all hidden layers; 256 by default.")
    depth: Depth | None = Field(default=None, description="Number of hidden layers; 4 by default.")
    activation: Activation = "ReLU"
    norm: Literal["BatchNorm1d", "LayerNorm", "RMSNorm"] | None = None
    dropout: Drop = 0.0
    bias: bool = True
    residual: bool = Field(default=False, description="Skip around each hidden layer whose width does not change.")

    def layers(self) -> list[Json]:
        self.need_floats()
        self.need_axes(tuple(range(1, 9)), "features, …")
        if self.widths is not None:
            for field in ("width", "depth"):
                if getattr(self, field) is not None:
                    raise PresetError((field,), "widths already says how many layers there are and how wide; keep one")
        widths = self.widths or (self.width or DEFAULT_WIDTH,) * (self.depth or DEFAULT_DEPTH)
        before: int | None = self.input.shape[0] if len(self.input.shape) == 1 else None
        if self.residual and all(a != b for a, b in zip((before, *widths), widths, strict=False)):
            raise PresetError(("residual",), "no two neighbouring widths are equal, so nothing can be skipped")
        written: list[Json] = [] if before is not None else [{"type": "Flatten"}]
        for width in widths:
            hidden = self.hidden(width)
            written += [{"type": "Residual", "layers": hidden}] if self.residual and width == before else hidden
            before = width
        return [*written, {"type": "Linear", "out_features": self.num_classes, "name": "head"}]

    def hidden(self, width: int) -> list[Json]:
        """Return one hidden layer."""
        linear: Json = {"type": "Linear", "out_features": width}
        layers = [linear if self.bias else linear | {"bias": False}]
        if self.norm is not None:
            layers.append({"type": self.norm})
        layers.append({"type": self.activation})
        if self.dropout:
            layers.append({"type": "Dropout", "p": self.dropout})
        return layers
