"""A model spec: torch.nn in JSON. (First cut; the layer table replaces it.)"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from gradinspect.contracts.data import SampleInput
from gradinspect.contracts.document import Document


class SpecInput(SampleInput):
    """The model's input, without the batch axis."""

    high: int | None = None


class ModelSpec(Document):
    """Layers in order."""

    input: SpecInput
    layers: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    init: dict[str, Any] | None = None
