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
    edge = signal_edge(evidence, depth)
    if edge is None:
        return None
    rows = (evidence.by_name[name] for name in edge.parameters if name in evidence.by_name)
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
