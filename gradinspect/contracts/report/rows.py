"""Rows of a report: one for each layer call, one for each parameter tensor.

A number that is not finite, or that has no meaning for its layer, is `None`; a count next to it (`nonfinite_count`,
`nan_count`, `inf_count`) says when values were not finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from gradinspect.contracts.document import Count, Document, Finite, Fraction, Name

Number = Finite | None
Share = Fraction | None
# not_in_loss: it feeds only outputs that this loss does not read. unused: it feeds no output.
ParameterStatus = Literal["trained", "frozen", "unused", "not_in_loss", "zero"]
MAX_AXES = 64  # torch's own limit
MAX_PARAMETERS = 50_000  # of one call, as of one report
Names = Annotated[tuple[Name, ...], Field(max_length=1024)]
ParameterNames = Annotated[tuple[Name, ...], Field(max_length=MAX_PARAMETERS)]
Sizes = Annotated[tuple[Count, ...], Field(max_length=MAX_AXES)]


@dataclass(frozen=True, slots=True)
class Mean:
    """How a field is averaged over seeds or batches, and its unit.

    Attributes:
        rule: "geometric" for norms and gains, which vary by factors; "arithmetic" for shares, means and similarities;
            "largest" for counts; "each_field" for a row inside the row; "first" keeps the first pass's value.
        unit: as written in the JSON schema; None for a ratio or an index.
    """

    rule: Literal["arithmetic", "geometric", "largest", "each_field", "first"]
    unit: str | None = None

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:  # Any: Pydantic's schema dictionaries
        """Write the unit into the JSON schema."""
        written = handler(schema)
        return written if self.unit is None else written | {"x-unit": self.unit}


Norm = Annotated[Number, Mean("geometric", "l2 norm")]
PerElement = Annotated[Number, Mean("geometric", "per element")]
SignedPerElement = Annotated[Number, Mean("arithmetic", "per element")]
Geometric = Annotated[Number, Mean("geometric")]
Arithmetic = Annotated[Number, Mean("arithmetic")]
MeanShare = Annotated[Share, Mean("arithmetic", "share")]
Tally = Annotated[Count, Mean("largest", "elements")]
Index = Annotated[Count, Mean("first")]


class Row(Document):
    """A document of which a report holds thousands; all rows of a kind share one set of field names.

    Pydantic gives each instance its own set of the field names passed to it, which takes more memory than the row's
    numbers and is never needed. The shared set must not be changed.
    """

    _names: ClassVar[set[str]] = set()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # Any: as Pydantic has it
        """Remember the field names of a kind of row."""
        super().__pydantic_init_subclass__(**kwargs)
        cls._names = set(cls.model_fields)

    def model_post_init(self, _context: object) -> None:
        """Replace the set of field names of a row, validated or constructed, by the shared one."""
        object.__setattr__(self, "__pydantic_fields_set__", self._names)  # the row itself is frozen

    def __copy__(self) -> Self:
        """Copy the row for `model_copy`, with the shared set of field names."""
        copied = super().__copy__()
        object.__setattr__(copied, "__pydantic_fields_set__", self._names)
        return copied


class ActivationStatistics(Row):
    """The layer call's output as the next layer sees it: after the activation function, where one follows."""

    mean: SignedPerElement = None
    std: PerElement = None
    rms: PerElement = None
    abs_max: PerElement = None


class SignalStatistics(Row):
    """The gradient of the mean-reduced loss with respect to the layer call's output (pre-activation)."""

    norm: Norm = None
    rms: PerElement = None


class CallReference(Row):
    """One call of one layer, by name."""

    name: Name
    call: Annotated[Count, Mean("first")]


Neighbours = Annotated[tuple[CallReference, ...], Field(max_length=64)]


class OpenedMeasurement(Row):
    """A layer call that zero weights keep from learning in the first step, measured with these weights opened."""

    cumulative_backward_gain: Geometric = Field(default=None, description="As in the row, per unit of the gates.")
    signal_rms: PerElement = Field(default=None, description="As `signal.rms`, per unit of the gates.")
    backward_gain: Geometric = None
    activation_gain: Geometric = None
    weight_gain: Geometric = None
    dead_unit_fraction: MeanShare = None
    saturated_fraction: MeanShare = None


class LayerMeasurement(Row):
    """One call of one layer. A module that runs twice in a forward pass gives two of these."""

    depth: Index = Field(description="Index in topological order of the graph, 0 nearest the input.")
    name: Name
    call: Index = Field(description="0 for the first call of this layer in the forward pass.")
    kind: Name = Field(description="Linear, Conv2d, LayerNorm …, or the operation's name where no module is known.")
    parameters: ParameterNames
    output_shape: Sizes
    activation: Annotated[ActivationStatistics | None, Mean("each_field")] = None
    preactivation: Annotated[ActivationStatistics | None, Mean("each_field")] = Field(
        default=None, description="The output before the nonlinearity, where one follows; else `activation` is it."
    )
    nonlinearity: Name | None = Field(default=None, description="The activation function that follows: relu, tanh …")
    joined_nonlinearity: Name | None = Field(
        default=None,
        description=(
            "Where no function follows this call alone: those that take its output in a sum, a product or a "
            "concatenation with others', or a part of it. Dead units, saturation and slope are theirs."
        ),
    )
    signal: Annotated[SignalStatistics | None, Mean("each_field")] = None
    forward_gain: Geometric = Field(default=None, description="rms of `activation` over rms of the data that entered.")
    backward_gain: Geometric = Field(default=None, description="‖δ_l‖ / ‖δ_{l+1}‖, the next call nearer the loss.")
    activation_gain: Geometric = Field(default=None, description="The nonlinearity's part of backward_gain.")
    weight_gain: Geometric = Field(default=None, description="The weight's part of backward_gain.")
    cumulative_backward_gain: Geometric = Field(default=None, description="‖δ_l‖ / ‖δ_L‖, L the last call.")
    grad_norm: Norm = Field(default=None, description="l2 norm of the gradients of its parameters together.")
    dead_unit_fraction: MeanShare = None
    saturated_fraction: MeanShare = None
    mean_squared_slope: Geometric = None
    sample_similarity: Arithmetic = Field(default=None, description="Mean cosine similarity between samples.")
    nonfinite_count: Tally = 0
    predicted_chi1: Geometric = None
    measured_chi1: Geometric = None
    inputs: Neighbours = Field(default=(), description="The nearest layer calls whose outputs enter.")
    successors: Neighbours = Field(default=(), description="The nearest layer calls that take the output.")
    on_trunk: bool | None = Field(
        default=None, description="Whether the longest path to the loss passes here; null in reports without a graph."
    )
    normalised_scale: PerElement = Field(
        default=None, description="rms of what the next normalisation takes in, where that divides the size out."
    )
    gate_factor: Geometric = Field(
        default=None, description="Product of the small gates on the widest way to the loss, where there are any."
    )
    recurrence_calls: Index = Field(
        default=0, description="Calls of the same weights on one path that starts here; 0 where none does."
    )
    recurrence_gain: Geometric = Field(
        default=None, description="By how much that path multiplies a signal that enters at its last call alone."
    )
    opened: Annotated[OpenedMeasurement | None, Mean("each_field")] = Field(
        default=None, description="With zero weights opened; null where none stops the signal."
    )


class Quantiles(Row):
    """Quantiles of |g|."""

    p01: Number = None
    p05: Number = None
    p25: Number = None
    p50: Number = None
    p75: Number = None
    p95: Number = None
    p99: Number = None


class Log2Histogram(Row):
    """Counts of |g| by binary exponent: `counts[i]` has 2^(lowest+i) ≤ |g| < 2^(lowest+i+1)."""

    lowest: int
    counts: Annotated[tuple[Count, ...], Field(max_length=128)]
    below: Count = Field(default=0, description="Non-zero values under the lowest bin.")
    above: Count = Field(default=0, description="Finite values over the highest bin.")
    zeros: Count = 0
    sampled: bool = Field(default=False, description="True when a strided sample stands for all elements.")


class ParameterMeasurement(Row):
    """One parameter tensor; a shared tensor once, with its other names as aliases."""

    name: Name
    aliases: ParameterNames = ()
    layer: Name
    shape: Sizes
    numel: Index
    dtype: Name
    status: ParameterStatus
    grad_norm: Norm = None
    grad_rms: PerElement = None
    grad_mean: SignedPerElement = None
    grad_std: PerElement = None
    grad_abs_max: PerElement = None
    grad_abs_mean: PerElement = None
    grad_quantiles: Annotated[Quantiles | None, Mean("first")] = None
    log2_histogram: Annotated[Log2Histogram | None, Mean("first")] = None
    zero_fraction: MeanShare = None
    nan_count: Tally = 0
    inf_count: Tally = 0
    weight_norm: Norm = None
    weight_rms: PerElement = None
    weight_nonfinite_count: Tally = 0
    grad_to_weight: Geometric = None
    update_norm: Norm = None
    update_to_weight: Geometric = None
    grad_snr: Geometric = None
    noise_scale: Geometric = None
    hessian_trace: Arithmetic = None
    curvature_along_gradient: Arithmetic = None
    top_eigenvalue: Arithmetic = None
    fp16_flush_fraction: MeanShare = None
    bf16_flush_fraction: MeanShare = None


def joint_gradient_norm(names: Iterable[str], rows: Mapping[str, ParameterMeasurement]) -> float | None:
    """Return the l2 norm of several parameters' gradients together.

    Args:
        names: of the parameters; those without a row, or without a gradient, count as zero.
        rows: by parameter name.

    Returns:
        None where none of them has a gradient, and where a gradient has a value that is not finite.
    """
    own = [rows[name] for name in names if name in rows]
    norms = [row.grad_norm for row in own if row.grad_norm is not None]
    if not norms or any(row.nan_count or row.inf_count for row in own):
        return None
    norm = math.hypot(*norms)
    return norm if math.isfinite(norm) else None
