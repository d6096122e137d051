"""Weights that start at exactly zero and shut out the signal only until their own first step.

Zero-initialised heads and last layers of residual branches do this on purpose. Source: Goyal et al. 2017, section 5.1;
Bachlechner et al. 2021 (ReZero); Hu et al. 2022 (LoRA).
"""

from __future__ import annotations

from bisect import bisect_left

from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from gradinspect.rules.evidence import Evidence


def signal_edge(evidence: Evidence, depth: int) -> LayerMeasurement | None:
    """The first layer call from `depth` towards the loss that still gets a signal."""
    place = bisect_left(evidence.signalled, depth, key=lambda row: row.depth)
    return evidence.signalled[place] if place < len(evidence.signalled) else None


def closed_gate(evidence: Evidence, depth: int, *, besides: str = "") -> ParameterMeasurement | None:
    """The zero weight that keeps the signal from `depth`, if that is the reason and it gets a gradient itself.

    Args:
        evidence: the measurements.
        depth: a layer call that gets no signal.
        besides: a parameter that cannot be its own reason.
    """
    edge = signal_edge(evidence, depth)
    if edge is None:
        return None
    held = (evidence.by_name[name] for name in edge.parameters if name in evidence.by_name)
    return next(
        (
            row
            for row in held
            if row.name != besides
            and row.weight_norm == 0
            and row.status == "trained"
            and not row.name.endswith("bias")
        ),
        None,
    )
