"""From the readings of one pass to the report's rows: layers in depth order, parameters in registration order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from gradinspect.contracts.nonlinearities import BY_OPERATIONS
from gradinspect.contracts.report.rows import (
    ActivationStatistics,
    LayerMeasurement,
    Log2Histogram,
    ParameterMeasurement,
    ParameterStatus,
    Quantiles,
    SignalStatistics,
)
from gradinspect.engine.arrays.distributions import Distribution
from gradinspect.engine.arrays.precision import flush_fractions
from gradinspect.engine.arrays.statistics import Amplitude
from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex, owner_of
from gradinspect.engine.tracing.calls import LayerCall
from gradinspect.engine.tracing.naming import CallName, layer_of_parameters
from gradinspect.engine.tracing.readings import GradientReading, PassReading
from gradinspect.engine.tracing.theory import predicted_chi1

MAX_BINS = 128


def finite(value: float | None) -> float | None:
    """A number as the report writes it: None where it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """A quotient, None where either side is missing, not finite, or the divisor is zero."""
    if numerator is None or denominator is None or denominator == 0:
        return None
    return finite(numerator / denominator)


def layer_rows(
    reading: PassReading,
    names: Sequence[CallName],
    parameters: ParameterIndex,
    rows: Iterable[ParameterMeasurement] = (),
) -> list[LayerMeasurement]:
    """Make one row per layer call.

    Args:
        rows: of the pass's parameters, for the norms of the layers' gradients; without them these stay unknown.
    """
    by_name = {row.name: row for row in rows}
    registration = {entry: place for place, entry in enumerate(parameters)}
    last = max(reading.signals, default=None)
    total = reading.signals[last] if last is not None else None
    return [
        _layer_row(call, name, reading, total, registration, by_name)
        for call, name in zip(reading.calls, names, strict=True)
    ]


def gradient_norm(names: Iterable[str], rows: Mapping[str, ParameterMeasurement]) -> float | None:
    """The l2 norm of some parameters' gradients together, where there are some and all are finite."""
    own = [rows[name] for name in names if name in rows]
    norms = [row.grad_norm for row in own if row.grad_norm is not None]
    return finite(math.hypot(*norms)) if norms and not any(row.nan_count or row.inf_count for row in own) else None


def _layer_row(
    call: LayerCall,
    name: CallName,
    reading: PassReading,
    last_signal: float | None,
    registration: dict[ParameterEntry, int],
    rows: Mapping[str, ParameterMeasurement],
) -> LayerMeasurement:
    signal = reading.signals.get(call.order)
    after = reading.signals_after.get(call.order)
    following = reading.following.get(call.order)
    next_signal = reading.signals.get(following) if following is not None else None
    activation = call.activation
    shown = activation.output if activation is not None else call.output
    units = activation.units if activation is not None else call.units
    backward_gain = ratio(signal, next_signal)
    chi1 = None
    if following is not None and call.order in reading.direct:
        chi1 = finite(predicted_chi1(call, reading.calls[following], reading.weights))
    elements = reading.signal_sizes.get(call.order, 0)
    own = tuple(entry.name for entry in sorted(call.entries, key=registration.__getitem__))
    return LayerMeasurement(
        depth=call.order,
        name=name.name,
        call=name.call,
        kind=name.kind,
        parameters=own,
        output_shape=call.output_shape,
        activation=_activation(shown),
        preactivation=_activation(call.output) if activation is not None else None,
        nonlinearity=_shown_name(activation.operation) if activation is not None else None,
        signal=SignalStatistics(norm=finite(signal), rms=finite(signal / math.sqrt(elements)) if elements else None)
        if signal is not None
        else None,
        forward_gain=ratio(shown.rms, call.input_rms),
        backward_gain=backward_gain,
        activation_gain=ratio(signal, after) if activation is not None else (1.0 if next_signal is not None else None),
        weight_gain=ratio(after if activation is not None else signal, next_signal),
        cumulative_backward_gain=ratio(signal, last_signal),
        grad_norm=gradient_norm(own, rows),
        dead_unit_fraction=units.dead_fraction if units is not None else None,
        saturated_fraction=activation.slope.saturated_fraction if activation is not None else None,
        mean_squared_slope=finite(activation.slope.mean_square) if activation is not None else None,
        sample_similarity=finite(units.similarity) if units is not None else None,
        nonfinite_count=max(call.output.nonfinite_count, shown.nonfinite_count),
        predicted_chi1=chi1,
        measured_chi1=backward_gain**2 if chi1 is not None and backward_gain is not None else None,
    )


def _shown_name(operation: str) -> str:
    name = operation.rstrip("_")
    record = BY_OPERATIONS.get((name,))
    return record.name if record is not None else name.removeprefix("_")


def _activation(values: Amplitude) -> ActivationStatistics:
    return ActivationStatistics(
        mean=finite(values.mean), std=finite(values.std), rms=finite(values.rms), abs_max=finite(values.abs_max)
    )


def parameter_rows(
    reading: PassReading, names: Sequence[CallName], parameters: ParameterIndex, loss_scale: float
) -> list[ParameterMeasurement]:
    """Make one row per parameter tensor."""
    layer_of = layer_of_parameters(reading.calls, names)
    return [
        _parameter_row(entry, layer_of.get(entry, owner_of(entry.name) or entry.name), reading, loss_scale)
        for entry in parameters
    ]


def _parameter_row(entry: ParameterEntry, layer: str, reading: PassReading, loss_scale: float) -> ParameterMeasurement:
    weight, gradient = reading.weights[entry], reading.gradients.get(entry)
    weight_norm = finite(weight.norm)
    row: dict[str, object] = {
        "name": entry.name,
        "aliases": tuple(entry.aliases),
        "layer": layer,
        "shape": tuple(entry.tensor.shape),
        "numel": entry.tensor.numel(),
        "dtype": str(entry.tensor.dtype).removeprefix("torch."),
        "status": _status(entry, gradient),
        "weight_norm": weight_norm,
        "weight_rms": finite(weight.rms),
        "weight_nonfinite_count": weight.nonfinite_count,
    }
    if gradient is not None:
        sums, spread = gradient.moments, gradient.distribution
        update = reading.update_norms.get(entry)
        fp16, bf16 = flush_fractions(spread, loss_scale) if spread is not None else (None, None)
        row |= {
            "grad_norm": finite(sums.norm),
            "grad_rms": finite(sums.rms),
            "grad_mean": finite(sums.mean),
            "grad_std": finite(sums.std),
            "grad_abs_max": finite(sums.abs_max),
            "grad_abs_mean": finite(sums.abs_mean),
            "grad_quantiles": _quantiles(spread),
            "log2_histogram": _histogram(spread),
            "zero_fraction": finite(sums.zero_fraction),
            "nan_count": sums.nan_count,
            "inf_count": sums.inf_count,
            "grad_to_weight": ratio(sums.norm, weight_norm),
            "update_norm": finite(update),
            "update_to_weight": ratio(update, weight_norm),
            "fp16_flush_fraction": fp16,
            "bf16_flush_fraction": bf16,
        }
    return ParameterMeasurement.model_validate(row)


def _status(entry: ParameterEntry, gradient: GradientReading | None) -> ParameterStatus:
    if not entry.requires_grad:
        return "frozen"
    if gradient is None:
        return "unused"
    return "zero" if gradient.moments.nonzero == 0 else "trained"


def _quantiles(spread: Distribution | None) -> Quantiles | None:
    if spread is None or not spread.magnitudes.size:
        return None
    return Quantiles(**dict(zip(("p01", "p05", "p25", "p50", "p75", "p95", "p99"), spread.quantiles, strict=True)))


def _histogram(spread: Distribution | None) -> Log2Histogram | None:
    if spread is None:
        return None
    # The widest span of exponents that fits is kept at the top; smaller values are counted below it.
    counts = spread.exponent_counts
    cut = max(len(counts) - MAX_BINS, 0)
    return Log2Histogram(
        lowest=spread.lowest_exponent + cut,
        counts=counts[cut:],
        below=sum(counts[:cut]),
        zeros=spread.zeros,
        sampled=spread.sampled,
    )
