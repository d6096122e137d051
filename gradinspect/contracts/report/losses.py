"""The outputs that a loss reads, and the terms of a loss that is a sum of several."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gradinspect.contracts.document import Document, Name, Text
from gradinspect.contracts.report.rows import Number

MAX_OUTPUTS, MAX_TERMS = 1024, 64
MAX_TERM_LAYERS = 1000  # of one term

OutputNames = Annotated[tuple[Name, ...], Field(max_length=MAX_OUTPUTS)]


class Outputs(Document):
    """The model's floating-point outputs that carry a gradient: indices, keys and field names, joined by dots."""

    used: OutputNames = Field(default=())
    unused: OutputNames = Field(default=())


class TermLayer(Document):
    """A term's gradient in one layer."""

    layer: Name
    grad_norm: Number = None
    cosine: Number = None


class LossTerm(Document):
    """One named term of the loss."""

    name: Name
    value: Number = None
    grad_norm: Number = None
    cosine: Number = None
    shared_cosine: Number = None
    layers: Annotated[tuple[TermLayer, ...], Field(max_length=MAX_TERM_LAYERS)] = ()
    reason: Text | None = None
