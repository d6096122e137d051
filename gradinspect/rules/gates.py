"""Weights that start at exactly zero and stop the signal until their first step.

Zero-initialised heads and last layers of residual branches do this on purpose. Source: Goyal et al. 2017, section 5.1;
Bachlechner et al. 2021 (ReZero); Hu et al. 2022 (LoRA).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from gradinspect.rules.evidence import Evidence


def signal_edge(evidence: Evidence, depth: int) -> LayerMeasurement | None:
    """Return the first layer call from `depth` towards the loss that gets a signal; None without one."""
    index = bisect_left(evidence.signalled, depth, key=lambda row: row.depth)
    return evidence.signalled[index] if index < len(evidence.signalled) else None


@dataclass(frozen=True)
class Gates:
    """The zero weights of a network that learn, and what each of them stops.

    Cost: linear in the layer calls and their neighbours.
    """

    evidence: Evidence

    def closed_for(self, depth: int) -> ParameterMeasurement | None:
        """Return the zero weight that keeps the signal from the layer call at `depth`; None without one."""
        if not self.evidence.has_graph:
            edge = signal_edge(self.evidence, depth)
            return self._gate_of(edge) if edge is not None else None
        return self.before(depth) or self._beyond.get(depth)

    def before(self, depth: int) -> ParameterMeasurement | None:
        """Return the zero weight that makes all that enters a layer call zero; None where something else enters."""
        return self._before.get(depth)

    @cached_property
    def _before(self) -> dict[int, ParameterMeasurement]:
        """The gate before each call, by depth."""
        gates: dict[int, ParameterMeasurement] = {}
        for row in self.evidence.layers:
            entering = [self._gate_of(earlier) or gates.get(earlier.depth) for earlier in self.evidence.inputs_of(row)]
            if entering and entering[0] is not None and None not in entering:
                gates[row.depth] = entering[0]
        return gates

    @cached_property
    def _beyond(self) -> dict[int, ParameterMeasurement]:
        """The nearest gate between each call and the loss, by depth, where no call between them gets a signal."""
        gates: dict[int, ParameterMeasurement] = {}
        for row in reversed(self.evidence.layers):
            for following in self.evidence.successors_of(row):
                gate = self._gate_of(following)
                if gate is None and not (following.signal is not None and following.signal.norm):
                    gate = self._before.get(following.depth) or gates.get(following.depth)
                if gate is not None:
                    gates[row.depth] = gate
                    break
        return gates

    def _gate_of(self, call: LayerMeasurement) -> ParameterMeasurement | None:
        """Return a weight of a call that is zero and learns."""
        rows = (self.evidence.by_name[name] for name in call.parameters if name in self.evidence.by_name)
        return next(
            (row for row in rows if row.weight_norm == 0 and row.status == "trained" and not row.name.endswith("bias")),
            None,
        )
