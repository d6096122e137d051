"""Layers made of layers: sequences, residual blocks, parallel branches, and repetitions.

The package's `__init__` defines the union of all layers and resolves the forward references.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from gradinspect.contracts.document import Document, Finite
from gradinspect.contracts.spec.layers.layer import AxisIndex, Node

if TYPE_CHECKING:
    from gradinspect.contracts.spec.layers import Entry

MAX_CALLS = 4_000  # chosen: an MLP of 1,000 blocks of three; a plan takes 20 µs a call


class Container(Node):
    """A layer made of layers."""


class Sequential(Container):
    """`torch.nn.Sequential`: one after the other."""

    type: Literal["Sequential"]
    layers: Annotated[tuple[Entry, ...], Field(min_length=1, max_length=MAX_CALLS)]


class Residual(Container):
    """shortcut(x) + scale·layers(x). Without `shortcut` the input itself is added, so the shapes must agree."""

    type: Literal["Residual"]
    layers: Annotated[tuple[Entry, ...], Field(min_length=1, max_length=MAX_CALLS)]
    scale: Finite = 1.0
    shortcut: Annotated[tuple[Entry, ...], Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Layers on the skip connection, such as a strided 1×1 convolution."
    )


class Concat(Container):
    """Every branch gets the same input; their outputs are joined on `dim` (torch's: axis 0 is the batch)."""

    type: Literal["Concat"]
    branches: Annotated[
        tuple[Annotated[tuple[Entry, ...], Field(max_length=MAX_CALLS)], ...], Field(min_length=1, max_length=256)
    ] = Field(description="An empty branch passes its input on.")
    dim: AxisIndex = 1


class Repeat(Document):
    """The same layers again and again, each copy with separate parameters.

    The copies are part of the surrounding container, as if written out. A `name` inside gets the copy's number, `fc_0`,
    `fc_1` …; a `tie` inside prefers the name of the same copy. From the second copy on, sizes that can be inferred
    (`in_features` …) follow from the input, whatever the document says for the first.
    """

    repeat: Annotated[int, Field(ge=1, le=MAX_CALLS)]
    layers: Annotated[tuple[Entry, ...], Field(min_length=1, max_length=MAX_CALLS)]
