"""Recurrent layers over (time, features). `batch_first` is always true: in a spec the first axis is the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from gradinspect.contracts.spec.layers.layer import Inferred, Layer, Probability, Resolved, Shape, Size, need_axes

Output = Literal["last", "sequence"]


class _Recurrent(Layer):
    inferable: ClassVar[frozenset[str]] = frozenset({"input_size"})
    gates: ClassVar[int]
    # Elements saved for backward per step, in units of hidden_size, measured with torch 2.13 on the CPU.
    saved_per_unit: ClassVar[int]

    input_size: Inferred = None
    hidden_size: Size
    num_layers: Size = 1
    bias: bool = True
    batch_first: Literal[True] = True
    dropout: Probability = 0.0
    bidirectional: bool = False
    output: Output = Field(
        default="sequence",
        description="What goes on: every step's output, or the last layer's final state (both directions joined).",
    )

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 2, "time, features", exact=True)
        time = shape[0]
        features = self.settle("input_size", shape[1], "input features")
        if self.dropout and self.num_layers == 1:
            raise self.refuse("dropout", "it works between layers; raise num_layers or use a Dropout layer")
        if self.num_layers > 1000:
            raise self.refuse("num_layers", "at most 1000 layers")
        state, directions = self.state_size(), 2 if self.bidirectional else 1
        parameters: dict[str, Shape] = {}
        for layer in range(self.num_layers):
            for suffix in ("", "_reverse")[:directions]:
                arriving = features if layer == 0 else state * directions
                parameters |= self.cell(f"l{layer}{suffix}", arriving, state)
        width = state * directions
        saved = time * self.hidden_size * self.saved_per_unit * self.num_layers * directions
        output = (time, width) if self.output == "sequence" else (width,)
        return Resolved(output, parameters, {"input_size": features}, saved)

    def cell(self, suffix: str, arriving: int, state: int) -> dict[str, Shape]:
        """Name the parameters of one layer in one direction, as torch does."""
        rows = self.gates * self.hidden_size
        shapes: dict[str, Shape] = {f"weight_ih_{suffix}": (rows, arriving), f"weight_hh_{suffix}": (rows, state)}
        if self.bias:
            shapes |= {f"bias_ih_{suffix}": (rows,), f"bias_hh_{suffix}": (rows,)}
        return shapes

    def state_size(self) -> int:
        """Return the output width of one direction."""
        return self.hidden_size

    def arguments(self, inferred: Mapping[str, object]) -> dict[str, object]:
        return super().arguments(inferred) | {"output": self.output}


class RNN(_Recurrent):
    """`torch.nn.RNN`: h_t = tanh(W·x_t + U·h_{t−1} + b)."""

    gates: ClassVar[int] = 1
    saved_per_unit: ClassVar[int] = 1

    type: Literal["RNN"]
    nonlinearity: Literal["tanh", "relu"] = "tanh"


class GRU(_Recurrent):
    """`torch.nn.GRU`."""

    gates: ClassVar[int] = 3
    saved_per_unit: ClassVar[int] = 7

    type: Literal["GRU"]


class LSTM(_Recurrent):
    """`torch.nn.LSTM`."""

    gates: ClassVar[int] = 4
    saved_per_unit: ClassVar[int] = 16

    type: Literal["LSTM"]
    proj_size: int = Field(default=0, ge=0, le=2**31 - 1)

    def state_size(self) -> int:
        if self.proj_size >= self.hidden_size:
            raise self.refuse("proj_size", "it must be smaller than hidden_size")
        return self.proj_size or self.hidden_size

    def cell(self, suffix: str, arriving: int, state: int) -> dict[str, Shape]:
        shapes = super().cell(suffix, arriving, state)
        if self.proj_size:
            shapes[f"weight_hr_{suffix}"] = (self.proj_size, self.hidden_size)
        return shapes
