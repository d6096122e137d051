"""The layers of a model spec: one class for each class of `torch.nn` that is allowed, a family a file, and our few own.

A class here states the constructor's arguments, their bounds and torch's defaults, and what shape goes out and which
parameters are held for a given input shape. No torch; tests/engine compares every class with the real one.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Discriminator, Field, Tag

from gradinspect.contracts.layers import activation, containers, dense
from gradinspect.contracts.layers.containers import Concat, Container, Repeat, Residual, Sequential
from gradinspect.contracts.layers.layer import Layer, MisfitError, Resolved, Shape

TypedLayer = Annotated[
    dense.Linear | dense.Embedding | dense.PositionalEmbedding
    | activation.Identity | activation.ReLU | activation.ReLU6 | activation.LeakyReLU | activation.PReLU
    | activation.RReLU | activation.ELU | activation.SELU | activation.CELU | activation.GELU | activation.SiLU
    | activation.Mish | activation.Softplus | activation.Softsign | activation.Tanh | activation.Sigmoid
    | activation.LogSigmoid | activation.Hardtanh | activation.Hardsigmoid | activation.Hardswish
    | activation.Hardshrink | activation.Softshrink | activation.Tanhshrink | activation.Threshold
    | activation.Softmax | activation.LogSoftmax | activation.Softmin | activation.Softmax2d | activation.GLU
    | activation.Dropout | activation.AlphaDropout | activation.FeatureAlphaDropout
    | activation.Dropout1d | activation.Dropout2d | activation.Dropout3d
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
    "LAYER_TYPES", "Concat", "Container", "Entry", "Layer", "MisfitError", "Repeat", "Residual", "Resolved", "Sequential",
    "Shape", "TypedLayer",
]  # fmt: skip
