"""Full confinement: no files, no network, no programs, no processes. Tried, not assumed."""

from __future__ import annotations

from workers.sandbox import Level


def reachable_level() -> tuple[Level, str]:
    """The level that a child can reach here, and why it is not `full` where it is not."""
    return "limits", "full confinement is not built into this version"


def confine() -> None:
    """Confine this process for good."""
    raise OSError("full confinement is not built into this version")
