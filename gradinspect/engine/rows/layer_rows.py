"""Rows of the report from the readings of one pass: layers in depth order, parameters in registration order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from gradinspect.contracts.document import MAX_NAME
from gradinspect.contracts.nonlinearities import BY_OPERATIONS
from gradinspect.contracts.report.rows import (
    ActivationStatistics,
    LayerMeasurement,
    Log2Histogram,
    ParameterMeasurement,
    ParameterStatus,
    Quantiles,
    SignalStatistics,
    joint_gradient_norm,
)
from gradinspect.engine.arrays.distributions import Distribution
from gradinspect.engine.arrays.precision import flush_fractions
from gradinspect.engine.arrays.statistics import Amplitude
from gradinspect.engine.first_order.opened_gates import Opened
from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex, owner_of
from gradinspect.engine.rows.paths import Paths
from gradinspect.engine.tracing.calls import ActivationCall, LayerCall
from gradinspect.engine.tracing.naming import CallName, layer_of_parameters
from gradinspect.engine.tracing.readings import GradientReading, PassReading
from gradinspect.engine.tracing.theory import predicted_chi1

MAX_BINS = 128  # of a histogram in the report

Fields = dict[str, object]


def finite(value: float | None) -> float | None:
    """Replace a number that is not finite by None, as the report writes it.

    >>> finite(float("inf")) is None
    True
    """
    return value if value is not None and math.isfinite(value) else None


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Divide; None where either side is missing, where the divisor is zero, and where the result is not finite.

    >>> ratio(1.0, 4.0), ratio(1.0, 0.0)
    (0.25, None)
    """
    if numerator is None or denominator is None or denominator == 0:
        return None
    return finite(numerator / denominator)


def layer_rows(
    reading: PassReading,
    names: Sequence[CallName],
    parameters: ParameterIndex,
    rows: Iterable[ParameterMeasurement] = (),
    opened: Opened | None = None,
) -> list[LayerMeasurement]:
    """Make one row per layer call.

    Args:
        rows: of the pass's parameters, for the norms of the layers' gradients; without them these are unknown.
        opened: the pass with zero weights opened, if there was one.
    """
    by_name = {row.name: row for row in rows}
    registration = {entry: index for index, entry in enumerate(parameters)}
    last = max(reading.signals, default=None)
    last_signal = reading.signals[last] if last is not None else None
    made = []
    for call, name, place in zip(reading.calls, names, Paths(reading, names, opened).fields(), strict=True):
        own = tuple(entry.name for entry in sorted(call.entries, key=registration.__getitem__))
        identity: Fields = {
            "depth": call.order, "name": name.name, "call": name.call, "kind": name.kind, "parameters": own,
            "output_shape": call.output_shape, "grad_norm": joint_gradient_norm(own, by_name),
        }  # fmt: skip
        values = _forward(call) | _backward(call, reading, last_signal)
        made.append(LayerMeasurement.model_validate(identity | values | place))
    return made


def _forward(call: LayerCall) -> Fields:
    """Write what the forward pass and the slope of the nonlinearity say about a call."""
    fields = _output(call)
    if call.activation is not None:
        fields |= _nonlinearity(call, call.activation)
    elif call.joined:
        fields |= _joined(call.joined)
    return fields


def _output(call: LayerCall) -> Fields:
    shown: LayerCall | ActivationCall = call if call.activation is None else call.activation
    fields: Fields = {
        "activation": _statistics(shown.output),
        "forward_gain": ratio(shown.output.rms, call.input_rms),
        "nonfinite_count": max(call.output.nonfinite_count, shown.output.nonfinite_count),
    }
    if shown.units is not None:
        fields["dead_unit_fraction"] = shown.units.dead_fraction
        fields["sample_similarity"] = finite(shown.units.similarity)
    return fields


def _nonlinearity(call: LayerCall, activation: ActivationCall) -> Fields:
    return {
        "preactivation": _statistics(call.output),
        "nonlinearity": _shown_name(activation.operation),
        "saturated_fraction": activation.slope.saturated_fraction,
        "mean_squared_slope": finite(activation.slope.mean_square),
    }


def _joined(joined: Sequence[ActivationCall]) -> Fields:
    """Write what the nonlinearities say that take a call's output with others, or a part of it: means over elements."""
    names = dict.fromkeys(_shown_name(each.operation) for each in joined)
    rectifying = [each for each in joined if each.activation is not None and each.activation.facts.is_hard_zero]
    fields: Fields = {
        "joined_nonlinearity": ", ".join(names)[:MAX_NAME],
        "saturated_fraction": _mean_over_elements(joined, lambda each: each.slope.saturated_fraction),
        "mean_squared_slope": _mean_over_elements(joined, lambda each: finite(each.slope.mean_square)),
    }
    if rectifying:
        fields["dead_unit_fraction"] = _mean_over_elements(
            rectifying, lambda each: each.units.dead_fraction if each.units is not None else None
        )
        fields["sample_similarity"] = _mean_over_elements(
            rectifying, lambda each: finite(each.units.similarity) if each.units is not None else None
        )
    return fields


def _mean_over_elements(
    calls: Sequence[ActivationCall], value_of: Callable[[ActivationCall], float | None]
) -> float | None:
    known = [(value, each.output.numel) for each in calls if (value := value_of(each)) is not None]
    elements = sum(count for _, count in known)
    return math.fsum(value * count for value, count in known) / elements if elements else None


def _backward(call: LayerCall, reading: PassReading, last_signal: float | None) -> Fields:
    """Write what the backward pass says about a call: δ, and the factors by which it differs from the next call's."""
    signal = reading.signals.get(call.order)
    after = reading.signals_after.get(call.order)
    following = reading.following.get(call.order)
    next_signal = reading.signals.get(following) if following is not None else None
    fields: Fields = {
        "backward_gain": ratio(signal, next_signal), "cumulative_backward_gain": ratio(signal, last_signal),
    }  # fmt: skip
    if signal is not None:
        elements = reading.signal_sizes[call.order]
        rms = finite(signal / math.sqrt(elements)) if elements else None
        fields["signal"] = SignalStatistics(norm=finite(signal), rms=rms)
    if call.activation is not None:
        fields |= {"activation_gain": ratio(signal, after), "weight_gain": ratio(after, next_signal)}
    elif next_signal is not None:
        fields |= {"activation_gain": 1.0, "weight_gain": ratio(signal, next_signal)}
    if following is not None and call.order in reading.direct:
        fields |= _chi1(call, reading, reading.calls[following], ratio(signal, next_signal))
    return fields


def _chi1(call: LayerCall, reading: PassReading, following: LayerCall, backward_gain: float | None) -> Fields:
    predicted = finite(predicted_chi1(call, following, reading.weights))
    if predicted is None:
        return {}
    return {"predicted_chi1": predicted, "measured_chi1": None if backward_gain is None else backward_gain**2}


def _shown_name(operation: str) -> str:
    name = operation.rstrip("_")
    record = BY_OPERATIONS.get((name,))
    return record.name if record is not None else name.removeprefix("_")


def _statistics(values: Amplitude) -> ActivationStatistics:
    return ActivationStatistics(
        mean=finite(values.mean), std=finite(values.std), rms=finite(values.rms), abs_max=finite(values.abs_max)
    )


def parameter_rows(
    reading: PassReading, names: Sequence[CallName], parameters: ParameterIndex, loss_scale: float
) -> list[ParameterMeasurement]:
    """Make one row per parameter tensor.

    Args:
        loss_scale: at which gradients would be stored in low precision.
    """
    layer_of = layer_of_parameters(reading.calls, names)
    return [
        _parameter_row(entry, layer_of.get(entry, owner_of(entry.name) or entry.name), reading, loss_scale)
        for entry in parameters
    ]


def _parameter_row(entry: ParameterEntry, layer: str, reading: PassReading, loss_scale: float) -> ParameterMeasurement:
    weight, gradient = reading.weights[entry], reading.gradients.get(entry)
    weight_norm = finite(weight.norm)
    row: Fields = {
        "name": entry.name,
        "aliases": tuple(entry.aliases),
        "layer": layer,
        "shape": tuple(entry.tensor.shape),
        "numel": entry.tensor.numel(),
        "dtype": str(entry.tensor.dtype).removeprefix("torch."),
        "status": _status(entry, gradient, reading),
        "weight_norm": weight_norm,
        "weight_rms": finite(weight.rms),
        "weight_nonfinite_count": weight.nonfinite_count,
    }
    if gradient is not None:
        row |= _gradient(gradient, weight_norm, loss_scale)
        update_norm = reading.update_norms.get(entry)
        row |= {"update_norm": finite(update_norm), "update_to_weight": ratio(update_norm, weight_norm)}
    return ParameterMeasurement.model_validate(row)


def _gradient(gradient: GradientReading, weight_norm: float | None, loss_scale: float) -> Fields:
    sums, distribution = gradient.moments, gradient.distribution
    fp16, bf16 = flush_fractions(distribution, loss_scale) if distribution is not None else (None, None)
    return {
        "grad_norm": finite(sums.norm),
        "grad_rms": finite(sums.rms),
        "grad_mean": finite(sums.mean),
        "grad_std": finite(sums.std),
        "grad_abs_max": finite(sums.abs_max),
        "grad_abs_mean": finite(sums.abs_mean),
        "grad_quantiles": _quantiles(distribution),
        "log2_histogram": _histogram(distribution),
        "zero_fraction": finite(sums.zero_fraction),
        "nan_count": sums.nan_count,
        "inf_count": sums.inf_count,
        "grad_to_weight": ratio(sums.norm, weight_norm),
        "fp16_flush_fraction": fp16,
        "bf16_flush_fraction": bf16,
    }


def _status(entry: ParameterEntry, gradient: GradientReading | None, reading: PassReading) -> ParameterStatus:
    if not entry.requires_grad:
        return "frozen"
    if gradient is None:
        return "not_in_loss" if entry in reading.outputs.behind_unused else "unused"
    return "zero" if gradient.moments.nonzero == 0 else "trained"


def _quantiles(distribution: Distribution | None) -> Quantiles | None:
    if distribution is None or not distribution.magnitudes.size:
        return None
    names = ("p01", "p05", "p25", "p50", "p75", "p95", "p99")
    return Quantiles(**dict(zip(names, distribution.quantiles, strict=True)))


def _histogram(distribution: Distribution | None) -> Log2Histogram | None:
    """Write the counts by exponent; of a span wider than `MAX_BINS`, the lower exponents are counted together."""
    if distribution is None:
        return None
    counts = distribution.exponent_counts
    cut = max(len(counts) - MAX_BINS, 0)
    return Log2Histogram(
        lowest=distribution.lowest_exponent + cut,
        counts=counts[cut:],
        below=sum(counts[:cut]),
        zeros=distribution.zeros,
        sampled=distribution.sampled,
    )
