"""uniform: one learning rate for all groups, the arm that every other method has to beat."""

from __future__ import annotations

from collections.abc import Sequence

from gradinspect.probes.scales.measurement import GroupMeasurement


def uniform(measured: Sequence[GroupMeasurement]) -> list[float | None]:
    """Raw scales, all 1."""
    return [1.0 for _ in measured]
