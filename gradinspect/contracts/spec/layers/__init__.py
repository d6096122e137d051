"""The layers of a model spec: one class for each class of `torch.nn` that is allowed, a family a file, and our few own.

A class here states the constructor's arguments, their bounds and torch's defaults, and what shape goes out and which
parameters are held for a given input shape. No torch; tests/contracts compares every class with the real one.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Discriminator, Field, Tag

from gradinspect.contracts.spec.layers import (
    activation,
    attention,
    convolution,
    dense,
    dropout,
    normalization,
    padding,
    pooling,
    recurrent,
    reshaping,
)
from gradinspect.contracts.spec.layers.containers import Concat, Container, Repeat, Residual, Sequential
from gradinspect.contracts.spec.layers.layer import Layer, MisfitError, Resolved, Shape

TypedLayer = Annotated[
    dense.Linear | dense.Embedding | dense.EmbeddingBag | dense.PositionalEmbedding
    | convolution.Conv1d | convolution.Conv2d | convolution.Conv3d | convolution.ConvTranspose1d |
    convolution.ConvTranspose2d | convolution.ConvTranspose3d
    | pooling.MaxPool1d | pooling.MaxPool2d | pooling.MaxPool3d | pooling.AvgPool1d | pooling.AvgPool2d |
    pooling.AvgPool3d | pooling.LPPool1d | pooling.LPPool2d | pooling.LPPool3d | pooling.AdaptiveAvgPool1d |
    pooling.AdaptiveAvgPool2d | pooling.AdaptiveAvgPool3d | pooling.AdaptiveMaxPool1d | pooling.AdaptiveMaxPool2d |
    pooling.AdaptiveMaxPool3d | pooling.FractionalMaxPool2d | pooling.FractionalMaxPool3d
    | normalization.BatchNorm1d | normalization.BatchNorm2d | normalization.BatchNorm3d | normalization.InstanceNorm1d |
    normalization.InstanceNorm2d | normalization.InstanceNorm3d | normalization.GroupNorm | normalization.LayerNorm |
    normalization.RMSNorm | normalization.LocalResponseNorm
    | activation.Identity | activation.ReLU | activation.ReLU6 | activation.LeakyReLU | activation.PReLU |
    activation.RReLU | activation.ELU | activation.SELU | activation.CELU | activation.GELU | activation.SiLU |
    activation.Mish | activation.Softplus | activation.Softsign | activation.Tanh | activation.Sigmoid |
    activation.LogSigmoid | activation.Hardtanh | activation.Hardsigmoid | activation.Hardswish |
    activation.Hardshrink | activation.Softshrink | activation.Tanhshrink | activation.Threshold | activation.Softmax
    | activation.LogSoftmax | activation.Softmin | activation.Softmax2d | activation.GLU
    | dropout.Dropout | dropout.AlphaDropout | dropout.Dropout1d | dropout.Dropout2d | dropout.Dropout3d |
    dropout.FeatureAlphaDropout
    | reshaping.Flatten | reshaping.Unflatten | reshaping.Permute | reshaping.Mean | reshaping.PixelShuffle |
    reshaping.PixelUnshuffle | reshaping.ChannelShuffle | reshaping.Unfold | reshaping.Fold | reshaping.Upsample |
    reshaping.UpsamplingNearest2d | reshaping.UpsamplingBilinear2d
    | padding.ZeroPad1d | padding.ZeroPad2d | padding.ZeroPad3d | padding.ConstantPad1d | padding.ConstantPad2d |
    padding.ConstantPad3d | padding.ReflectionPad1d | padding.ReflectionPad2d | padding.ReflectionPad3d |
    padding.ReplicationPad1d | padding.ReplicationPad2d | padding.ReplicationPad3d | padding.CircularPad1d |
    padding.CircularPad2d | padding.CircularPad3d
    | recurrent.RNN | recurrent.GRU | recurrent.LSTM
    | attention.MultiheadAttention | attention.TransformerEncoderLayer | attention.TransformerEncoder
    | Sequential | Residual | Concat,
    Field(discriminator="type"),
]  # fmt: skip


def _single_or_repeated(value: object) -> str:
    if isinstance(value, dict):
        return "repeated" if "repeat" in value and "type" not in value else "single"
    return "repeated" if isinstance(value, Repeat) else "single"


Entry = Annotated[
    Annotated[TypedLayer, Tag("single")] | Annotated[Repeat, Tag("repeated")], Discriminator(_single_or_repeated)
]

for _container in (Sequential, Residual, Concat, Repeat):
    _container.model_rebuild(_types_namespace={"Entry": Entry})


def _by_type(alias: Any) -> dict[str, type[Layer | Container]]:  # Any: a typing construct has no type of its own
    classes = get_args(get_args(alias)[0])
    return {get_args(entry.model_fields["type"].annotation)[0]: entry for entry in classes}


LAYER_TYPES: dict[str, type[Layer | Container]] = _by_type(TypedLayer)

__all__ = [
    "LAYER_TYPES", "Concat", "Container", "Entry", "Layer", "MisfitError", "Repeat", "Residual", "Resolved",
    "Sequential", "Shape", "TypedLayer",
]  # fmt: skip
