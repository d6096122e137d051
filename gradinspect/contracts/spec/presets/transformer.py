"""Transformers: an encoder that classifies, or a decoder that predicts the next token."""

from __future__ import annotations

from math import sqrt
from typing import Annotated, Literal

from pydantic import Field

from gradinspect.contracts.spec.presets.preset import Depth, Drop, Json, Preset, PresetError, Width
from gradinspect.contracts.spec.spec_input import SpecInput

DEFAULT_VOCABULARY = 256  # chosen: bytes
GPT2_STD = 0.02  # Radford et al. 2019


class TransformerPreset(Preset):
    """Embeddings, transformer blocks, and a head; initialised as GPT-2.

    Weights from N(0, 0.02²), biases 0, and weights that write into the residual stream from N(0, 0.02² / (2·depth)).
    An encoder takes tokens (time) or features (time, features) and classifies their mean; a decoder takes tokens, sees
    the past only, and gives scores over its vocabulary for every position.
    """

    preset: Literal["transformer"]
    kind: Literal["encoder", "decoder"] = "encoder"
    input: SpecInput = SpecInput(shape=(64,), dtype="int64")
    vocabulary: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None, description="Different tokens; 256 by default."
    )
    width: Width = 128
    depth: Depth = 4
    heads: Annotated[int, Field(ge=1, le=1024)] = 4
    feedforward: Width | None = Field(default=None, description="Width inside a block; 4·width by default.")
    norm: Literal["pre", "post"] = Field(default="pre", description="LayerNorm in front of each branch, or after it.")
    activation: Literal["relu", "gelu"] = "gelu"
    dropout: Drop = 0.0
    tie: bool | None = Field(
        default=None, description="Decoder: the head shares the embedding's weight; true by default."
    )

    def layers(self) -> list[Json]:
        if self.width % self.heads:
            raise PresetError(("heads",), f"{self.heads} heads do not divide a width of {self.width}")
        block: Json = {
            "type": "TransformerEncoderLayer", "nhead": self.heads,
            "dim_feedforward": self.feedforward or 4 * self.width, "dropout": self.dropout,
            "activation": self.activation,
        }  # fmt: skip
        if self.norm == "pre":
            block["norm_first"] = True
        if self.kind == "decoder":
            block["causal"] = True
        drop: list[Json] = [{"type": "Dropout", "p": self.dropout}] if self.dropout else []
        last: list[Json] = [{"type": "LayerNorm"}] if self.norm == "pre" else []
        blocks: Json = {"repeat": self.depth, "layers": [block | {"name": "block"}]}
        positions: Json = {"type": "PositionalEmbedding", "name": "positions"}
        return [*self.embedded(), positions, *drop, blocks, *last, *self.head()]

    def recommended_init(self) -> Json:
        def normal(std: float) -> Json:
            return {"name": "normal_", "std": std}

        # Two branches of each block write into the stream.
        return {
            "weight": normal(GPT2_STD),
            "bias": {"name": "zeros_"},
            "residual": normal(GPT2_STD / sqrt(2 * self.depth)),
        }

    def embedded(self) -> list[Json]:
        """Return the layers that turn the input into vectors of `width`."""
        if self.input.holds_tokens:
            self.need_axes((1,), "time")
            size = self.tokens()
            return [{"type": "Embedding", "num_embeddings": size, "embedding_dim": self.width, "name": "tokens"}]
        if self.kind == "decoder":
            raise PresetError(("input", "dtype"), "a decoder predicts tokens; set it to int64")
        if self.vocabulary is not None:
            raise PresetError(("vocabulary",), "it goes with tokens; set input.dtype to int64, or leave it out")
        self.need_axes((2,), "time, features")
        return [{"type": "Linear", "out_features": self.width, "name": "features"}]

    def head(self) -> list[Json]:
        """Classes from the mean over time, or scores for the next token."""
        if self.kind == "encoder":
            if self.tie is not None:
                raise PresetError(("tie",), "it goes with kind decoder, whose head scores the vocabulary")
            return [{"type": "Mean", "dim": 1}, {"type": "Linear", "out_features": self.num_classes, "name": "head"}]
        if "num_classes" in self.model_fields_set:
            raise PresetError(("num_classes",), "a decoder scores its vocabulary; give vocabulary instead")
        head: Json = {"type": "Linear", "out_features": self.tokens(), "bias": False, "name": "head"}
        return [head if self.tie is False else head | {"tie": "tokens"}]

    def tokens(self) -> int:
        """Count the different tokens."""
        return self.vocabulary or self.input.high or DEFAULT_VOCABULARY
