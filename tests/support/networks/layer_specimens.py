"""One small spec for each layer type and each of its forms, and random specs for hypothesis."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from gradinspect.contracts.spec.layers import LAYER_TYPES, Container, Layer

Json = dict[str, Any]

FLAT, SEQUENCE, TOKENS = [6], [5, 8], [5]
LINE, IMAGE, VOLUME = [4, 9], [4, 8, 9], [4, 6, 7, 8]
SPATIAL = {1: LINE, 2: IMAGE, 3: VOLUME}
BLOCK = {"type": "TransformerEncoderLayer", "nhead": 2, "dim_feedforward": 16}


def spec(shape: list[int], *layers: Json, tokens: bool = False, **more: Any) -> Json:
    """Make a spec of these layers."""
    return {"input": {"shape": shape, "dtype": "int64" if tokens else "float32"}, "layers": list(layers), **more}


def _spatial() -> list[Json]:
    found = []
    for axes, shape in SPATIAL.items():
        for layer in (
            {"type": f"Conv{axes}d", "out_channels": 6, "kernel_size": 3, "padding": 1, "groups": 2},
            {"type": f"Conv{axes}d", "out_channels": 2, "kernel_size": 2, "stride": 2, "bias": False},
            {
                "type": f"Conv{axes}d",
                "out_channels": 2,
                "kernel_size": 3,
                "padding": "same",
                "padding_mode": "circular",
            },
            {"type": f"ConvTranspose{axes}d", "out_channels": 6, "kernel_size": 3, "stride": 2, "output_padding": 1},
            {"type": f"MaxPool{axes}d", "kernel_size": 2, "ceil_mode": True},
            {"type": f"AvgPool{axes}d", "kernel_size": 3, "padding": 1, "stride": 2},
            {"type": f"LPPool{axes}d", "norm_type": 2, "kernel_size": 2},
            {"type": f"AdaptiveAvgPool{axes}d", "output_size": 3},
            {"type": f"AdaptiveMaxPool{axes}d", "output_size": 2},
            {"type": f"BatchNorm{axes}d"},
            {"type": f"InstanceNorm{axes}d", "affine": True},
            {"type": f"Dropout{axes}d", "p": 0.2},
            {"type": f"ZeroPad{axes}d", "padding": 2},
            {"type": f"ConstantPad{axes}d", "padding": list(range(2 * axes)), "value": 1.5},
            {"type": f"ReflectionPad{axes}d", "padding": 1},
            {"type": f"ReplicationPad{axes}d", "padding": 2},
            {"type": f"CircularPad{axes}d", "padding": 1},
        ):
            found.append(spec(shape, layer))
    for axes in (2, 3):
        found.append(spec(SPATIAL[axes], {"type": f"FractionalMaxPool{axes}d", "kernel_size": 2, "output_ratio": 0.5}))
    return found


def _elementwise() -> list[Json]:
    plain = (
        "Identity ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Softplus Softsign Tanh Sigmoid "
        "LogSigmoid Hardtanh Hardsigmoid Hardswish Hardshrink Softshrink Tanhshrink Dropout AlphaDropout "
        "FeatureAlphaDropout"
    )
    found = [spec(FLAT, {"type": name}) for name in plain.split()]
    found += [spec(FLAT, {"type": name, "dim": 1}) for name in ("Softmax", "LogSoftmax", "Softmin")]
    found += [
        spec(FLAT, {"type": "Threshold", "threshold": 0.1, "value": 0.0}),
        spec(FLAT, {"type": "PReLU", "num_parameters": 6, "init": 0.1}),
        spec(FLAT, {"type": "GLU"}),
        spec(IMAGE, {"type": "Softmax2d"}),
    ]
    return found


def _rest() -> list[Json]:
    return [
        spec(FLAT, {"type": "Linear", "out_features": 3}),
        spec(FLAT, {"type": "Linear", "out_features": 3, "bias": False}),
        spec(FLAT, {"type": "BatchNorm1d"}),
        spec(TOKENS, {"type": "Embedding", "num_embeddings": 7, "embedding_dim": 3, "padding_idx": 0}, tokens=True),
        spec(TOKENS, {"type": "EmbeddingBag", "num_embeddings": 7, "embedding_dim": 3}, tokens=True),
        spec(SEQUENCE, {"type": "PositionalEmbedding", "num_positions": 9}),
        spec(IMAGE, {"type": "GroupNorm", "num_groups": 2}),
        spec(SEQUENCE, {"type": "LayerNorm"}),
        spec(SEQUENCE, {"type": "LayerNorm", "normalized_shape": [5, 8], "bias": False}),
        spec(SEQUENCE, {"type": "RMSNorm"}),
        spec(IMAGE, {"type": "LocalResponseNorm", "size": 2}),
        spec(IMAGE, {"type": "Flatten"}),
        spec([12], {"type": "Unflatten", "dim": 1, "unflattened_size": [3, -1]}),
        spec(SEQUENCE, {"type": "Permute", "dims": [0, 2, 1]}),
        spec(SEQUENCE, {"type": "Mean", "dim": 1}),
        spec(IMAGE, {"type": "PixelShuffle", "upscale_factor": 2}),
        spec([2, 4, 6], {"type": "PixelUnshuffle", "downscale_factor": 2}),
        spec(IMAGE, {"type": "ChannelShuffle", "groups": 2}),
        spec(IMAGE, {"type": "Unfold", "kernel_size": [2, 3], "stride": 2}),
        spec([12, 20], {"type": "Fold", "output_size": [5, 6], "kernel_size": 2}),
        spec(IMAGE, {"type": "Upsample", "scale_factor": 2, "mode": "bilinear", "align_corners": False}),
        spec(LINE, {"type": "Upsample", "size": 20}),
        spec(IMAGE, {"type": "UpsamplingNearest2d", "scale_factor": 2}),
        spec(IMAGE, {"type": "UpsamplingBilinear2d", "size": [3, 4]}),
        spec(SEQUENCE, {"type": "RNN", "hidden_size": 4, "nonlinearity": "relu"}),
        spec(SEQUENCE, {"type": "RNN", "hidden_size": 4, "bidirectional": True, "output": "last"}),
        spec(SEQUENCE, {"type": "GRU", "hidden_size": 4, "num_layers": 2, "dropout": 0.1}),
        spec(SEQUENCE, {"type": "LSTM", "hidden_size": 4, "bias": False, "output": "last"}),
        spec(SEQUENCE, {"type": "LSTM", "hidden_size": 4, "num_layers": 2, "bidirectional": True}),
        spec(SEQUENCE, {"type": "MultiheadAttention", "num_heads": 2, "causal": True}),
        spec(SEQUENCE, {"type": "MultiheadAttention", "num_heads": 2, "add_bias_kv": True, "output": "last"}),
        spec(SEQUENCE, {"type": "MultiheadAttention", "num_heads": 2, "add_zero_attn": True, "bias": False}),
        spec(SEQUENCE, BLOCK | {"norm_first": True, "causal": True, "activation": "gelu"}),
        spec(SEQUENCE, BLOCK | {"bias": False, "output": "last"}),
        spec(SEQUENCE, {"type": "TransformerEncoder", "encoder_layer": BLOCK, "num_layers": 2}),
        spec(
            SEQUENCE,
            {"type": "TransformerEncoder", "encoder_layer": BLOCK | {"causal": True}, "num_layers": 2,
             "norm": {"type": "LayerNorm"}, "output": "last"},
        ),
        spec(FLAT, {"type": "Sequential", "layers": [{"type": "Linear", "out_features": 3}]}),
        spec(FLAT, {"type": "Residual", "layers": [{"type": "Linear", "out_features": 6}], "scale": 0.5}),
        spec(
            FLAT,
            {"type": "Residual", "layers": [{"type": "Linear", "out_features": 3}],
             "shortcut": [{"type": "Linear", "out_features": 3, "bias": False}]},
        ),
        spec(FLAT, {"type": "Concat", "branches": [[], [{"type": "Linear", "out_features": 3}, {"type": "Tanh"}]]}),
        spec(FLAT, {"repeat": 3, "layers": [{"type": "Linear", "out_features": 6}, {"type": "ReLU"}]}),
    ]  # fmt: skip


EVERY_LAYER = [*_spatial(), *_elementwise(), *_rest()]


def label(document: Json) -> str:
    """Return the test id of a specimen."""
    layer = document["layers"][0]
    chosen = "-".join(f"{key}={value}" for key, value in layer.items() if key not in ("type", "layers", "branches"))
    return f"{layer.get('type', 'repeat')}[{chosen}]"[:70]


_BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "p": st.sampled_from([0.0, 0.1, 1.0]), "dropout": st.sampled_from([0.0, 0.1]), "dim": st.integers(-4, 4),
    "start_dim": st.integers(-3, 3), "end_dim": st.integers(-3, 3), "out_features": st.integers(1, 9),
    "norm_type": st.sampled_from([1, 2, 3]), "eps": st.sampled_from([1e-5, 1e-3]), "batch_first": st.just(True),
    "output_ratio": st.sampled_from([None, 0.5, 0.7]), "scale_factor": st.sampled_from([None, 2, 0.5, 1.5, [2, 1]]),
    "dims": st.permutations([0, 1, 2, 3]).map(lambda order: order[: len(order)]),
    "unflattened_size": st.lists(st.sampled_from([-1, 1, 2, 3, 4]), min_size=1, max_size=3),
    "momentum": st.sampled_from([0.1, 0.5]), "alpha": st.sampled_from([0.5, 1.0]), "max_norm": st.none(),
    "padding_idx": st.sampled_from([None, 0, 3]), "num_layers": st.integers(1, 2), "proj_size": st.integers(0, 2),
    "recompute_scale_factor": st.none(), "threshold": st.sampled_from([0.1, 20.0]), "divisor_override": st.just(None),
    "lower": st.just(0.1), "upper": st.just(0.3), "lambd": st.just(0.5), "negative_slope": st.just(0.01),
    "encoder_layer": st.just(BLOCK), "norm": st.sampled_from([None, {"type": "LayerNorm"}]),
    "inplace": st.just(False),
}  # fmt: skip
_PER_AXIS = st.one_of(st.integers(1, 4), st.lists(st.integers(1, 4), min_size=1, max_size=3))
_ZERO_PER_AXIS = st.one_of(st.integers(0, 3), st.lists(st.integers(0, 3), min_size=1, max_size=6))


def _values(name: str, field: FieldInfo) -> st.SearchStrategy[Any]:
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name in ("kernel_size", "stride", "dilation", "output_size", "size"):
        return st.one_of(st.just(None), _PER_AXIS) if field.default is None else _PER_AXIS
    if name in ("padding", "output_padding"):
        return _ZERO_PER_AXIS
    if field.annotation is bool:
        return st.booleans()
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return st.sampled_from(choices)
    if field.annotation is float:
        return st.sampled_from([0.5, 1.0, 2.0])
    return st.integers(1, 6)


NAMES = sorted(kind for kind, made in LAYER_TYPES.items() if issubclass(made, Layer))
# These accept most inputs, so random sequences of them are often valid.
EASY = [
    "ReLU", "GELU", "Tanh", "SiLU", "Identity", "Dropout", "Linear", "LayerNorm", "RMSNorm", "Flatten", "Softmax",
    "PReLU", "LSTM", "MultiheadAttention", "Conv2d", "BatchNorm1d", "MaxPool1d",
]  # fmt: skip


@st.composite
def layers(draw: st.DrawFn, names: st.SearchStrategy[str]) -> Json:
    """Draw one layer with arguments that may or may not fit."""
    name = draw(names)
    made = LAYER_TYPES[name]
    layer: Json = {"type": name}
    for key, field in made.model_fields.items():
        if key in ("type", "name", "tie", "frozen") or (key == "init" and name != "PReLU"):
            continue
        if key in made.inferable and draw(st.integers(0, 9)):  # type: ignore[union-attr]  # a Layer, as chosen above
            continue
        if field.is_required() or not draw(st.integers(0, 2)):
            value = draw(_values(key, field))
            if value is not None:
                layer[key] = value
    return layer


def nested(depth: int = 2) -> st.SearchStrategy[Json]:
    """Draw a layer or a container of layers."""
    single = layers(st.one_of(st.sampled_from(EASY), st.sampled_from(EASY), st.sampled_from(NAMES)))
    if depth == 0:
        return single
    inside = st.lists(nested(depth - 1), min_size=1, max_size=3)
    return st.one_of(
        single,
        single,
        st.builds(lambda row: {"type": "Sequential", "layers": row}, inside),
        st.builds(
            lambda row, scale: {"type": "Residual", "layers": row, "scale": scale}, inside, st.sampled_from([1.0, 0.5])
        ),
        st.builds(lambda rows: {"type": "Concat", "branches": rows}, st.lists(inside, min_size=1, max_size=2)),
        st.builds(lambda row, count: {"repeat": count, "layers": row}, inside, st.integers(1, 3)),
    )


SHAPES: st.SearchStrategy[list[int]] = st.sampled_from(
    [FLAT, SEQUENCE, LINE, IMAGE, VOLUME, [], [1], [8, 8], [3, 1, 1]]
)


@st.composite
def single_layers(draw: st.DrawFn) -> Json:
    """Draw a spec of one layer, mostly with an input of the number of axes that the layer takes."""
    layer = draw(layers(st.sampled_from(NAMES)))
    name: str = layer["type"]
    takes: list[list[int]] = {"1": [LINE, SEQUENCE], "2": [IMAGE, [2, 5, 7]], "3": [VOLUME]}.get(
        name[-2:-1] if name[-1] == "d" else "", []
    )
    if name in ("RNN", "GRU", "LSTM", "MultiheadAttention", "PositionalEmbedding") or name.startswith("Transformer"):
        takes = [SEQUENCE, [1, 6]]
    shape = draw(st.sampled_from(takes) if len(takes) > 0 and draw(st.integers(0, 9)) > 0 else SHAPES)
    tokens = name.startswith("Embedding") or draw(st.integers(0, 19)) == 0
    return spec(TOKENS if name == "EmbeddingBag" else shape, layer, tokens=tokens)


def covered() -> set[str]:
    """Return the layer types that appear in EVERY_LAYER."""
    return {layer["type"] for document in EVERY_LAYER for layer in document["layers"] if "type" in layer}


assert all(issubclass(made, Layer | Container) for made in LAYER_TYPES.values())
