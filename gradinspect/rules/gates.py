"""Weights that start at exactly zero and stop the signal until their first step.

Zero-initialised heads and last layers of residual branches do this on purpose. Source: Goyal et al. 2017, section 5.1;
Bachlechner et al. 2021 (ReZero); Hu et al. 2022 (LoRA).
"""

from __future__ import annotations

from bisect import bisect_left

from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from gradinspect.rules.evidence import Evidence


def signal_edge(evidence: Evidence, depth: int) -> LayerMeasurement | None:
    """Return the first layer call from `depth` towards the loss that gets a signal; None without one."""
    index = bisect_left(evidence.signalled, depth, key=lambda row: row.depth)
    return evidence.signalled[index] if index < len(evidence.signalled) else None


def closed_gate(evidence: Evidence, depth: int, *, besides: str = "") -> ParameterMeasurement | None:
    """Return the zero weight that stops the signal before `depth`; None unless it gets a gradient itself.

    Args:
        evidence: the measurements.
        depth: a layer call that gets no signal.
        besides: a parameter to leave out, because it cannot explain itself.
    """
    if evidence.has_graph:
        row = evidence.at_depth(depth)
        if row is None:
            return None
        return gate_before(evidence, row, besides=besides) or _gate_beyond(evidence, row, besides=besides)
    edge = signal_edge(evidence, depth)
    return _gate_of(evidence, edge, besides) if edge is not None else None


def gate_before(evidence: Evidence, row: LayerMeasurement, *, besides: str = "") -> ParameterMeasurement | None:
    """Return the zero weight that makes everything that enters a layer call zero; None where something else enters."""
    gate: ParameterMeasurement | None = None
    seen = {row.depth}
    waiting = [row]
    while waiting:
        inputs = evidence.inputs_of(waiting.pop())
        if not inputs:
            return None
        for earlier in inputs:
            own = _gate_of(evidence, earlier, besides)
            gate = own or gate
            if own is None and earlier.depth not in seen:
                seen.add(earlier.depth)
                waiting.append(earlier)
    return gate


def _gate_beyond(evidence: Evidence, row: LayerMeasurement, *, besides: str) -> ParameterMeasurement | None:
    """Return the nearest zero weight between a layer call without a signal and the loss."""
    seen = {row.depth}
    waiting = [row]
    while waiting:
        for following in evidence.successors_of(waiting.pop(0)):
            gate = _gate_of(evidence, following, besides)
            if gate is not None:
                return gate
            has_signal = following.signal is not None and following.signal.norm
            if following.depth not in seen and not has_signal:
                seen.add(following.depth)
                waiting.append(following)
                before = gate_before(evidence, following, besides=besides)
                if before is not None:
                    return before
    return None


def _gate_of(evidence: Evidence, call: LayerMeasurement, besides: str) -> ParameterMeasurement | None:
    """Return a weight of a call that is zero and learns."""
    rows = (evidence.by_name[name] for name in call.parameters if name in evidence.by_name)
    return next(
        (
            row
            for row in rows
            if row.name != besides
            and row.weight_norm == 0
            and row.status == "trained"
            and not row.name.endswith("bias")
        ),
        None,
    )
