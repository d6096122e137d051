"""The rows of a report: one for each layer call, one for each parameter tensor.

A number that is not finite, or that has no meaning for its layer, is `None`; a count beside it (`nonfinite_count`,
`nan_count`, `inf_count`) says when values were not finite.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from gradinspect.contracts.document import Count, Document, Finite, Fraction, Name

Number = Finite | None
Share = Fraction | None
ParameterStatus = Literal["trained", "frozen", "unused", "zero"]
Names = Annotated[tuple[Name, ...], Field(max_length=1024)]
Sizes = Annotated[tuple[Count, ...], Field(max_length=16)]


class Row(Document):
    """A document of which a report holds thousands: all of its kind share one set of field names.

    Pydantic would give each instance a set of the names that it was made with. In a row nobody asks for them, and they
    take more memory than its numbers. The set must not be changed.
    """

    _names: ClassVar[set[str]] = set()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # Any: as Pydantic has it
        """Called by Pydantic for each kind of row."""
        super().__pydantic_init_subclass__(**kwargs)
        cls._names = set(cls.model_fields)

    def model_post_init(self, _context: object) -> None:
        """Called by Pydantic for each row, validated or constructed."""
        object.__setattr__(self, "__pydantic_fields_set__", self._names)  # the row itself is frozen

    def __copy__(self) -> Self:
        """What `model_copy` begins with."""
        copied = super().__copy__()
        object.__setattr__(copied, "__pydantic_fields_set__", self._names)
        return copied


class ActivationStatistics(Row):
    """The layer call's output as the next layer sees it: after the activation function, where one follows."""

    mean: Number = None
    std: Number = None
    rms: Number = None
    abs_max: Number = None


class SignalStatistics(Row):
    """The gradient of the mean-reduced loss with respect to the layer call's output (pre-activation)."""

    norm: Number = None
    rms: Number = None


class LayerMeasurement(Row):
    """One call of one layer. A module that runs twice in a forward pass gives two of these."""

    depth: Count = Field(description="Place in topological order of the graph, 0 nearest the input.")
    name: Name
    call: Count = Field(description="0 for the first call of this layer in the forward pass.")
    kind: Name = Field(description="Linear, Conv2d, LayerNorm …, or the operation's name where no module is known.")
    parameters: Names
    output_shape: Sizes
    activation: ActivationStatistics | None = None
    preactivation: ActivationStatistics | None = Field(
        default=None, description="The output before the nonlinearity, where one follows; else `activation` is it."
    )
    nonlinearity: Name | None = Field(default=None, description="The activation function that follows: relu, tanh …")
    signal: SignalStatistics | None = None
    forward_gain: Number = Field(default=None, description="rms of `activation` over rms of the data that entered.")
    backward_gain: Number = Field(default=None, description="‖δ_l‖ / ‖δ_{l+1}‖, the next call nearer the loss.")
    activation_gain: Number = Field(default=None, description="The nonlinearity's part of backward_gain.")
    weight_gain: Number = Field(default=None, description="The weight's part of backward_gain.")
    cumulative_backward_gain: Number = Field(default=None, description="‖δ_l‖ / ‖δ_L‖, L the last call.")
    grad_norm: Number = Field(default=None, description="l2 norm of the gradients of its parameters together.")
    dead_unit_fraction: Share = None
    saturated_fraction: Share = None
    mean_squared_slope: Number = None
    sample_similarity: Number = Field(default=None, description="Mean cosine similarity between samples.")
    nonfinite_count: Count = 0
    predicted_chi1: Number = None
    measured_chi1: Number = None


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
    aliases: Names = ()
    layer: Name
    shape: Sizes
    numel: Count
    dtype: Name
    status: ParameterStatus
    grad_norm: Number = None
    grad_rms: Number = None
    grad_mean: Number = None
    grad_std: Number = None
    grad_abs_max: Number = None
    grad_abs_mean: Number = None
    grad_quantiles: Quantiles | None = None
    log2_histogram: Log2Histogram | None = None
    zero_fraction: Share = None
    nan_count: Count = 0
    inf_count: Count = 0
    weight_norm: Number = None
    weight_rms: Number = None
    weight_nonfinite_count: Count = 0
    grad_to_weight: Number = None
    update_norm: Number = None
    update_to_weight: Number = None
    grad_snr: Number = None
    noise_scale: Number = None
    hessian_trace: Number = None
    curvature_along_gradient: Number = None
    top_eigenvalue: Number = None
    fp16_flush_fraction: Share = None
    bf16_flush_fraction: Share = None
