"""Self-attention and transformer blocks over (time, features). `batch_first` is always true, as everywhere in a spec.

`causal` is our addition: a position sees itself and those before it. `output` selects the sequence or its last step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gradinspect.contracts.spec.layers.layer import (
    Inferred,
    Layer,
    MisfitError,
    Positive,
    Probability,
    Resolved,
    Role,
    Shape,
    Size,
    need_axes,
)
from gradinspect.contracts.spec.layers.normalization import LayerNorm, RMSNorm
from gradinspect.contracts.spec.layers.recurrent import Output


class _Residual(Layer):
    def role(self, parameter: str) -> Role | None:
        writes = parameter.endswith(("out_proj.weight", "linear2.weight"))
        return "residual" if writes else super().role(parameter)


class _Attending(_Residual):
    batch_first: Literal[True] = True
    causal: bool = Field(default=False, description="A position sees only itself and those before it.")
    output: Output = "sequence"

    def handed_on(self, shape: Shape) -> Shape:
        """Return the output's shape."""
        return shape if self.output == "sequence" else shape[1:]

    def head_check(self, width: int, heads_field: str) -> None:
        """Refuse a number of heads that does not divide the width."""
        heads: int = getattr(self, heads_field)
        if width % heads:
            raise self.refuse(heads_field, f"{heads} does not divide the {width} features")


def _attention(width: int, *, bias: bool) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"in_proj_weight": (3 * width, width), "out_proj.weight": (width, width)}
    if bias:
        shapes |= {"in_proj_bias": (3 * width,), "out_proj.bias": (width,)}
    return shapes


class MultiheadAttention(_Attending):
    """`torch.nn.MultiheadAttention` as self-attention: query, key and value are the input; weights are not returned."""

    inferable: ClassVar[frozenset[str]] = frozenset({"embed_dim"})

    type: Literal["MultiheadAttention"]
    embed_dim: Inferred = None
    num_heads: Size
    dropout: Probability = 0.0
    bias: bool = True
    add_bias_kv: bool = False
    add_zero_attn: bool = False

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 2, "time, features", exact=True)
        time, _ = shape
        width = self.settle("embed_dim", shape[1], "input features")
        self.head_check(width, "num_heads")
        parameters = _attention(width, bias=self.bias)
        if self.add_bias_kv:
            parameters |= {"bias_k": (1, 1, width), "bias_v": (1, 1, width)}
        saved = 5 * time * width + self.num_heads * time * time
        return Resolved(self.handed_on(shape), parameters, {"embed_dim": width}, saved)


class TransformerEncoderLayer(_Attending):
    """`torch.nn.TransformerEncoderLayer`; with `causal`, the block of a decoder-only model."""

    inferable: ClassVar[frozenset[str]] = frozenset({"d_model"})

    type: Literal["TransformerEncoderLayer"]
    d_model: Inferred = None
    nhead: Size
    dim_feedforward: Size = 2048
    dropout: Probability = 0.1
    activation: Literal["relu", "gelu"] = "relu"
    layer_norm_eps: Positive = 1e-5
    norm_first: bool = False
    bias: bool = True

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 2, "time, features", exact=True)
        time, _ = shape
        width = self.settle("d_model", shape[1], "input features")
        self.head_check(width, "nhead")
        parameters = {f"self_attn.{name}": part for name, part in _attention(width, bias=self.bias).items()}
        parameters |= {"linear1.weight": (self.dim_feedforward, width), "linear2.weight": (width, self.dim_feedforward)}
        parameters |= {"norm1.weight": (width,), "norm2.weight": (width,)}
        if self.bias:
            parameters |= {"linear1.bias": (self.dim_feedforward,), "linear2.bias": (width,)}
            parameters |= {"norm1.bias": (width,), "norm2.bias": (width,)}
        saved = time * (9 * width + 2 * self.dim_feedforward + self.nhead * time)
        return Resolved(self.handed_on(shape), parameters, {"d_model": width}, saved)


class TransformerEncoder(_Residual):
    """`torch.nn.TransformerEncoder`: `num_layers` copies of `encoder_layer`, which torch initialises equally.

    For copies with different initial values, use {"repeat": n, "layers": [{"type": "TransformerEncoderLayer", …}]}.
    """

    type: Literal["TransformerEncoder"]
    encoder_layer: TransformerEncoderLayer
    num_layers: Annotated[int, Field(ge=1, le=1000)]
    norm: Annotated[LayerNorm | RMSNorm, Field(discriminator="type")] | None = None
    output: Output = "sequence"

    def resolve(self, shape: Shape) -> Resolved:
        for field, part in (("encoder_layer", self.encoder_layer), ("norm", self.norm)):
            if part is not None and (part.name or part.tie or part.frozen or part.init):
                raise self.refuse(field, "name, frozen, init and tie belong to the TransformerEncoder itself")
        if self.encoder_layer.output != "sequence":
            raise self.refuse("encoder_layer", "output belongs to the TransformerEncoder itself")
        try:
            inner = self.encoder_layer.resolve(shape)
            outer = self.norm.resolve(shape) if self.norm is not None else None
        except MisfitError as misfit:
            raise MisfitError(misfit.detail, field="encoder_layer", gets=misfit.gets) from None
        parameters = {
            f"layers.{copy}.{name}": part for copy in range(self.num_layers) for name, part in inner.parameters.items()
        }
        inferred: dict[str, object] = {"encoder_layer": self.encoder_layer.arguments(inner.inferred)}
        if self.norm is not None and outer is not None:
            parameters |= {f"norm.{name}": part for name, part in outer.parameters.items()}
            inferred["norm"] = (self.norm.type, self.norm.arguments(outer.inferred))
        saved = (inner.saved or 0) * self.num_layers
        return Resolved(shape if self.output == "sequence" else shape[1:], parameters, inferred, saved)

    def arguments(self, inferred: Mapping[str, object]) -> dict[str, object]:
        return {"num_layers": self.num_layers, "output": self.output} | dict(inferred)
