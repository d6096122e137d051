"""Results of one pass over a model, as plain numbers: what rows and sections are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from gradinspect.contracts.report.setup import UnregisteredTensor
from gradinspect.engine.arrays.distributions import Distribution
from gradinspect.engine.arrays.statistics import MeanAndRms, Moments
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.tracing.calls import LayerCall
from gradinspect.engine.tracing.output_use import OutputUse
from gradinspect.engine.tracing.paths.layer_graph import LayerGraph
from gradinspect.engine.tracing.paths.recurrences import Recurrence


@dataclass(frozen=True, slots=True)
class GradientReading:
    """Reading of one parameter's gradient.

    Attributes:
        moments: sums over all elements.
        distribution: quantiles and exponents; None where a value is not finite.
        weight_product: ⟨W, dL/dW⟩ for a balanced weight, else NaN.
    """

    moments: Moments
    distribution: Distribution | None
    weight_product: float


@dataclass(frozen=True, slots=True)
class StepReading:
    """Effect of the declared optimizer's first step on a sample of one parameter's elements.

    Attributes:
        nonfinite: share of elements that are not finite afterwards.
        lost: share of the step's l1 norm in elements that have not moved, because it rounds away.
    """

    nonfinite: float
    lost: float


@dataclass
class PassReading:
    """Readings of one forward and backward pass.

    Attributes:
        loss: the mean-reduced loss.
        output_shape: shape of the model's output.
        calls: layer calls in order.
        loss_scale: factor of the loss in the backward pass; all readings are divided by it.
        signals: call order → ‖δ‖, NaN where it is not finite; calls that no gradient reaches are left out.
        signal_sizes: call order → number of elements of δ.
        signals_after: call order → ‖gradient at the output of its nonlinearity‖.
        following: call order → order of the next call towards the loss.
        direct: orders of the calls whose output reaches the next call unbranched and through reshapes alone.
        graph: of the layer calls.
        recurrences: measured chains of calls of the same weights.
        balanced: weights whose ⟨W, dL/dW⟩ must be equal: those of a chain of homogeneous maps, else none.
        gradients: readings of the parameters that have a gradient.
        update_norms: l2 norm of the declared optimizer's first step, for finite gradients.
        weights: mean and rms of every parameter.
        steps: what the optimizer's first step does to the parameters, in their precision.
        repeated_rows: share of a matrix's rows that repeat the row before, in values and gradients; 0 is left out.
        unregistered: tensors that the model trains with and does not register.
        outputs: which outputs the loss depends on.
    """

    loss: float
    output_shape: tuple[int, ...]
    calls: list[LayerCall]
    loss_scale: float = 1.0
    signals: dict[int, float] = field(default_factory=dict)
    signal_sizes: dict[int, int] = field(default_factory=dict)
    signals_after: dict[int, float] = field(default_factory=dict)
    following: dict[int, int] = field(default_factory=dict)
    direct: set[int] = field(default_factory=set)
    graph: LayerGraph = field(default_factory=LayerGraph)
    recurrences: list[Recurrence] = field(default_factory=list)
    balanced: set[ParameterEntry] = field(default_factory=set)
    gradients: dict[ParameterEntry, GradientReading] = field(default_factory=dict)
    update_norms: dict[ParameterEntry, float] = field(default_factory=dict)
    weights: dict[ParameterEntry, MeanAndRms] = field(default_factory=dict)
    steps: dict[ParameterEntry, StepReading] = field(default_factory=dict)
    repeated_rows: dict[ParameterEntry, float] = field(default_factory=dict)
    unregistered: tuple[UnregisteredTensor, ...] = ()
    outputs: OutputUse = field(default_factory=OutputUse)
