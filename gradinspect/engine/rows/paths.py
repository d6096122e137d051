"""The fields of a row that come from the graph of layer calls: neighbours, trunk, normalised sizes and gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gradinspect.contracts.report.rows import CallReference, OpenedMeasurement
from gradinspect.engine.first_order.opened_gates import OPENED, Opened
from gradinspect.engine.tracing.calls import ActivationCall, LayerCall
from gradinspect.engine.tracing.naming import CallName
from gradinspect.engine.tracing.readings import PassReading

SMALL_GATE = 0.1  # chosen: gains of norms start at 1, layer scales at 1e-1 to 1e-6

Fields = dict[str, object]


@dataclass(frozen=True)
class Paths:
    """The fields of each row that come from the graph of layer calls.

    Args:
        reading: of the pass.
        names: of its calls.
        opened: the pass with zero weights opened, if there was one.
    """

    reading: PassReading
    names: Sequence[CallName]
    opened: Opened | None = None

    def fields(self) -> list[Fields]:
        """Return the fields of each row, in the order of the calls."""
        reading = self.reading
        graph = reading.graph
        references = [CallReference.model_construct(name=name.name, call=name.call) for name in self.names]
        following, before = graph.neighbours()
        trunk = set(graph.trunk)
        normalised = graph.normalised_by(self._norms())
        gates = self._widest_gates()
        rows: list[Fields] = []
        for call in reading.calls:
            fields: Fields = {
                "inputs": tuple(references[order] for order in before.get(call.order, ())),
                "successors": tuple(references[order] for order in following.get(call.order, ())),
                "on_trunk": call.order in trunk if trunk else None,
            }
            if call.order in normalised:
                fields["normalised_scale"] = _positive(self._scale(call, normalised[call.order]))
            if gates.get(call.order, 1.0) < 1:
                fields["gate_factor"] = _positive(gates[call.order])
            rows.append(fields)
        for recurrence in reading.recurrences:
            rows[recurrence.calls[0]] |= {
                "recurrence_calls": len(recurrence.calls), "recurrence_gain": recurrence.gain,
            }  # fmt: skip
        if self.opened is not None:
            for order, measured in _opened_rows(reading, self.opened).items():
                rows[order]["opened"] = measured
        return rows

    def _norms(self) -> list[int]:
        pairs = zip(self.reading.calls, self.names, strict=True)
        return [call.order for call, name in pairs if "norm" in call.operation or "norm" in name.kind.lower()]

    def _scale(self, call: LayerCall, norm: int | None) -> float | None:
        """Return what a call's output is divided by: the size of the sum that the normalisation takes in."""
        if norm is not None:
            return self.reading.calls[norm].input_rms
        shown: LayerCall | ActivationCall = call if call.activation is None else call.activation
        return shown.output.rms

    def _widest_gates(self) -> dict[int, float]:
        factors = _gate_factors(self.reading, lambda rms: rms < SMALL_GATE)
        return self.reading.graph.widest_gates(factors) if factors else {}


def _gate_factors(reading: PassReading, is_gate: Callable[[float], bool]) -> dict[int, float]:
    """Return the factors of the calls that multiply by a vector of gains alone, of those that are gates."""
    factors: dict[int, float] = {}
    for call in reading.calls:
        gains = [entry for entry in call.entries if not entry.name.endswith("bias")]
        if not gains or any(sum(size != 1 for size in entry.tensor.shape) > 1 for entry in call.entries):
            continue
        rms = max(reading.weights[entry].rms for entry in gains)
        if is_gate(rms):
            factors[call.order] = rms
    return factors


def _opened_rows(reading: PassReading, opened: Opened) -> dict[int, OpenedMeasurement]:
    """Measure the calls without a signal in the pass with the gates opened, per unit of the gates on their way."""
    second = opened.reading
    if len(second.calls) != len(reading.calls) or not second.signals:
        return {}
    factors = _gate_factors(second, lambda rms: rms < SMALL_GATE)
    factors |= {call.order: OPENED for call in second.calls if opened.gates & set(call.entries)}
    widest = second.graph.widest_gates(factors)
    last = second.signals[max(second.signals)]
    rows: dict[int, OpenedMeasurement] = {}
    for order, signal in reading.signals.items():
        factor, elements = widest.get(order, 0.0), second.signal_sizes.get(order, 0)
        if signal != 0 or order not in second.signals or not factor or not last or not elements:
            continue
        size = second.signals[order] / factor
        following = second.following.get(order, order)
        ahead = second.signals.get(following, 0.0) / (widest.get(following) or math.nan)
        after = second.signals_after.get(order, second.signals[order]) / factor
        rows[order] = OpenedMeasurement(
            backward_gain=_quotient(size, ahead),
            activation_gain=_quotient(size, after),
            weight_gain=_quotient(after, ahead),
            cumulative_backward_gain=_positive(size / last, or_zero=True),
            signal_rms=_positive(size / math.sqrt(elements), or_zero=True),
            **_units(second.calls[order]),
        )
    return rows


def _units(call: LayerCall) -> Mapping[str, float | None]:
    shown: LayerCall | ActivationCall = call if call.activation is None else call.activation
    return {
        "dead_unit_fraction": shown.units.dead_fraction if shown.units is not None else None,
        "saturated_fraction": call.activation.slope.saturated_fraction if call.activation is not None else None,
    }


def _quotient(numerator: float, denominator: float) -> float | None:
    return _positive(numerator / denominator, or_zero=True) if denominator else None


def _positive(value: float | None, *, or_zero: bool = False) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return value if value > 0 or (or_zero and value == 0) else None
