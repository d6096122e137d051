"""Where a pass breaks: the operation, the line it was called from, and what went into it.

A confined process sends keys and numbers; the sentences are made where the report is judged (`rules/faults`). Names and
source lines come from the model, so they are bounded here and escaped where they are shown.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradinspect.contracts.document import Count, Document, Name
from gradinspect.contracts.report.rows import Names, Number, Share, Sizes

MAX_FAULTS = 8

Trap = Literal[
    "non_finite_data", "root_at_zero", "outside_domain", "log_of_zero", "edge_of_domain", "division_by_zero",
    "overflow", "half_overflow", "masked_softmax", "where_branch", "empty_mean", "impossible_alignment",
    "softmax_of_one", "norm_of_one", "no_slope", "no_derivative", "flat_region", "saturated", "overwritten",
    "zero_factor", "underflow", "equal_shift", "cancelling_uses", "only_padding", "zero_state", "detached", "no_grad",
    "data", "left_graph", "output_activation", "unknown",
]  # fmt: skip


class OperationInput(Document):
    """An input of an operation; numbers are of its finite values."""

    dtype: Name
    shape: Sizes
    smallest: Number = None
    largest: Number = None
    zero_fraction: Share = None
    nonfinite_count: Count = 0


class SourceLine(Document):
    """The line of the model that called an operation."""

    file: Annotated[str, Field(max_length=512)]
    line: Count
    code: Annotated[str, Field(max_length=200)] | None = None


class Operation(Document):
    """One operation of a pass."""

    name: Name
    module: Annotated[str, Field(max_length=256)] | None = None
    source: SourceLine | None = None
    inputs: Annotated[tuple[OperationInput, ...], Field(max_length=4)] = ()
    axis_size: Count | None = None
    reason: Trap


class Fault(Document):
    """The operation at which values become non-finite, or the gradient becomes exactly zero or is cut."""

    kind: Literal["non_finite", "zero", "cut"]
    stage: Literal["data", "forward", "loss", "backward"]
    operation: Operation
    parameters: Names = Field(default=(), description="Parameters that get no finite, non-zero gradient because of it.")
