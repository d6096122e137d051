"""A recurrent network over tokens or features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradinspect.contracts.spec.presets.preset import Drop, Json, Preset, PresetError, Width
from gradinspect.contracts.spec.spec_input import SpecInput


class RnnPreset(Preset):
    """An Embedding where tokens come in, recurrent layers, and a Linear head on the last state or on every step.

    Takes (time, features), or tokens of shape (time) with `input.dtype` int64 and a `vocabulary`.
    """

    preset: Literal["rnn"]
    input: SpecInput = SpecInput(shape=(32, 64))
    cell: Literal["RNN", "LSTM", "GRU"] = "LSTM"
    hidden_size: Width = 128
    num_layers: Annotated[int, Field(ge=1, le=100)] = 1
    bidirectional: bool = False
    nonlinearity: Literal["tanh", "relu"] | None = Field(default=None, description="Of cell RNN; tanh by default.")
    dropout: Drop = Field(default=0.0, description="Between layers, and in front of the head.")
    vocabulary: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(default=None, description="Tokens only.")
    embedding_dim: Width | None = Field(default=None, description="Tokens only; hidden_size by default.")
    output: Literal["last", "sequence"] = Field(default="last", description="One answer, or one for each step.")

    def layers(self) -> list[Json]:
        if self.nonlinearity is not None and self.cell != "RNN":
            raise PresetError(("nonlinearity",), f"it is an argument of cell RNN; {self.cell} has its own")
        recurrent: Json = {"type": self.cell, "hidden_size": self.hidden_size, "output": self.output}
        if self.num_layers > 1:
            recurrent |= {"num_layers": self.num_layers} | ({"dropout": self.dropout} if self.dropout else {})
        if self.bidirectional:
            recurrent["bidirectional"] = True
        if self.nonlinearity is not None:
            recurrent["nonlinearity"] = self.nonlinearity
        drop: list[Json] = [{"type": "Dropout", "p": self.dropout}] if self.dropout else []
        head = {"type": "Linear", "out_features": self.num_classes, "name": "head"}
        return [*self.embedded(), recurrent, *drop, head]

    def embedded(self) -> list[Json]:
        """Return the layer that turns tokens into vectors; nothing for features."""
        if not self.input.holds_tokens:
            for field in ("vocabulary", "embedding_dim"):
                if getattr(self, field) is not None:
                    raise PresetError((field,), "it goes with tokens; set input.dtype to int64, or leave it out")
            self.need_axes((2,), "time, features")
            return []
        self.need_axes((1,), "time")
        vocabulary = self.vocabulary or self.input.high
        if vocabulary is None:
            raise PresetError(("input", "dtype"), "tokens need a vocabulary; give the number of different tokens")
        width = self.embedding_dim or self.hidden_size
        return [{"type": "Embedding", "num_embeddings": vocabulary, "embedding_dim": width, "name": "tokens"}]
