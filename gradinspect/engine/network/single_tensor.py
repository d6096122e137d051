"""Layers of torch.nn that take or return several tensors, reduced to one: recurrent layers and attention.

Parameters have the names and, for one seed, the values of torch's own class. `output` selects the whole sequence or
its last state. All can be scripted and traced. The batch is the first axis, time the second.
"""

# mypy: disable-error-code="override, arg-type"
# override: these narrow what torch's own forward takes. arg-type: torch types RNNBase._flat_weights more loosely than
# the functions that take it. Neither can be ignored on its line: TorchScript reads a `type:` comment as code.

from __future__ import annotations

from typing import Any, Literal  # Any: arguments of torch's own constructors

import torch
from torch import Tensor, nn
from torch._VF import gru, lstm, rnn_relu, rnn_tanh
from torch.nn.functional import linear, scaled_dot_product_attention

Output = Literal["last", "sequence"]


class RNN(nn.RNN):
    """torch.nn.RNN from a zero state, with every step's output or the last layer's final state."""

    def __init__(self, input_size: int, hidden_size: int, *, output: Output, **arguments: Any) -> None:
        super().__init__(input_size, hidden_size, batch_first=True, **arguments)
        self.output = output

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, features)
        self._update_flat_weights()
        layers = self.num_layers * (2 if self.bidirectional else 1)
        state = torch.zeros(layers, x.size(0), self.hidden_size, dtype=x.dtype, device=x.device)
        if self.mode == "RNN_TANH":
            steps, final = rnn_tanh(
                x, state, self._flat_weights, self.bias, self.num_layers, self.dropout, self.training,
                self.bidirectional, self.batch_first,
            )  # fmt: skip
        else:
            steps, final = rnn_relu(
                x, state, self._flat_weights, self.bias, self.num_layers, self.dropout, self.training,
                self.bidirectional, self.batch_first,
            )  # fmt: skip
        return selected_output(steps, final, self.output == "last", self.bidirectional)


class GRU(nn.GRU):
    """torch.nn.GRU from a zero state, with every step's output or the last layer's final state."""

    def __init__(self, input_size: int, hidden_size: int, *, output: Output, **arguments: Any) -> None:
        super().__init__(input_size, hidden_size, batch_first=True, **arguments)
        self.output = output

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, features)
        self._update_flat_weights()
        layers = self.num_layers * (2 if self.bidirectional else 1)
        state = torch.zeros(layers, x.size(0), self.hidden_size, dtype=x.dtype, device=x.device)
        steps, final = gru(
            x, state, self._flat_weights, self.bias, self.num_layers, self.dropout, self.training,
            self.bidirectional, self.batch_first,
        )  # fmt: skip
        return selected_output(steps, final, self.output == "last", self.bidirectional)


class LSTM(nn.LSTM):
    """torch.nn.LSTM from a zero state, with every step's output or the last layer's final hidden state."""

    def __init__(self, input_size: int, hidden_size: int, *, output: Output, **arguments: Any) -> None:
        super().__init__(input_size, hidden_size, batch_first=True, **arguments)
        self.output = output

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, features)
        self._update_flat_weights()
        layers = self.num_layers * (2 if self.bidirectional else 1)
        width = self.proj_size if self.proj_size > 0 else self.hidden_size
        hidden = torch.zeros(layers, x.size(0), width, dtype=x.dtype, device=x.device)
        cell = torch.zeros(layers, x.size(0), self.hidden_size, dtype=x.dtype, device=x.device)
        steps, final, _ = lstm(
            x, (hidden, cell), self._flat_weights, self.bias, self.num_layers, self.dropout, self.training,
            self.bidirectional, self.batch_first,
        )  # fmt: skip
        return selected_output(steps, final, self.output == "last", self.bidirectional)


def selected_output(steps: Tensor, final: Tensor, is_last: bool, bidirectional: bool) -> Tensor:
    """Return (batch, time, width), or the last layer's final state (batch, width), both directions joined."""
    if not is_last:
        return steps
    return torch.cat([final[-2], final[-1]], 1) if bidirectional else final[-1]


class MultiheadAttention(nn.MultiheadAttention):
    """torch.nn.MultiheadAttention as self-attention; `causal` hides later positions."""

    def __init__(
        self, embed_dim: int, num_heads: int, *, output: Output = "sequence", causal: bool = False, **arguments: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, batch_first=True, **arguments)
        self.output = output
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        queries, keys, values = linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, 2)
        has_extra_keys = self.add_zero_attn
        key, value = self.bias_k, self.bias_v
        if key is not None and value is not None:  # one learned key and value
            keys = torch.cat([keys, key.expand(x.size(0), 1, x.size(2))], 1)
            values = torch.cat([values, value.expand(x.size(0), 1, x.size(2))], 1)
            has_extra_keys = True
        if self.add_zero_attn:  # one key and value of zeros
            zeros = torch.zeros(x.size(0), 1, x.size(2), dtype=x.dtype, device=x.device)
            keys = torch.cat([keys, zeros], 1)
            values = torch.cat([values, zeros], 1)
        visible: Tensor | None = None
        if self.causal and has_extra_keys:  # positions see earlier ones, and all extra keys
            visible = torch.ones(x.size(1), keys.size(1), dtype=torch.bool, device=x.device).tril()
            visible[:, x.size(1) :] = True
        mixed = scaled_dot_product_attention(
            in_heads(queries, self.num_heads), in_heads(keys, self.num_heads), in_heads(values, self.num_heads),
            visible, self.dropout if self.training else 0.0, self.causal and not has_extra_keys,
        )  # fmt: skip
        attended: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return attended if self.output == "sequence" else attended[:, -1]


def in_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape (batch, time, width) to (batch, heads, time, width / heads)."""
    return x.view(x.size(0), x.size(1), heads, x.size(2) // heads).transpose(1, 2)


class TransformerEncoderLayer(nn.TransformerEncoderLayer):
    """torch.nn.TransformerEncoderLayer; `causal` hides later positions.

    It uses the attention above: torch's own cannot be scripted without a bias, and has a fast path without a graph.
    """

    def __init__(
        self, d_model: int, nhead: int, *, output: Output = "sequence", causal: bool = False, **arguments: Any
    ) -> None:
        super().__init__(d_model, nhead, batch_first=True, **arguments)
        drawn = self.self_attn
        bias = drawn.in_proj_bias is not None
        own = MultiheadAttention(d_model, nhead, dropout=drawn.dropout, bias=bias, causal=causal, device="meta")
        own.load_state_dict(drawn.state_dict(), assign=True)
        self.self_attn = own
        self.output = output

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        if self.norm_first:
            x = x + self.dropout1(self.self_attn(self.norm1(x)))
            x = x + self._ff_block(self.norm2(x))
        else:
            x = self.norm1(x + self.dropout1(self.self_attn(x)))
            x = self.norm2(x + self._ff_block(x))
        return x if self.output == "sequence" else x[:, -1]


class TransformerEncoder(nn.TransformerEncoder):
    """torch.nn.TransformerEncoder over copies of one TransformerEncoderLayer.

    Args:
        encoder_layer: arguments of a TransformerEncoderLayer; torch starts all copies from equal parameters.
        num_layers: number of copies.
        output: the whole sequence or its last state.
        norm: class and arguments of the norm after the last copy.
    """

    __constants__: list[str] = []  # torch lists `norm` here, and warns that a module is no constant

    def __init__(
        self,
        encoder_layer: dict[str, Any],
        num_layers: int,
        *,
        output: Output,
        norm: tuple[str, dict[str, Any]] | None = None,
    ) -> None:
        last_norm: nn.Module | None = None
        if norm is not None:
            kind, arguments = norm
            last_norm = getattr(nn, kind)(**arguments)
        super().__init__(TransformerEncoderLayer(**encoder_layer), num_layers, last_norm, enable_nested_tensor=False)
        self.output = output

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        for layer in self.layers:
            x = layer(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.output == "sequence" else x[:, -1]
