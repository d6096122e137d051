"""What all sections of a report have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradinspect.contracts.document import Document, Text
from gradinspect.contracts.report.rows import Number

Losses = Annotated[tuple[Number, ...], Field(max_length=6000)]
MAX_CODE = 2_000_000  # letters: an optimizer with a group for each of 30,000 layers
Code = Annotated[str, Field(max_length=MAX_CODE)]

SectionStatus = Literal["measured", "undetermined"]


class Section(Document):
    """Numbers that could be measured, or the reason why they could not."""

    status: SectionStatus = "measured"
    reason: Text | None = Field(default=None, description="Why this section could not be computed.")
