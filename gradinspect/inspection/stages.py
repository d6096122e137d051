"""What is being computed, how far the whole job is, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

Progress = Callable[[str, float], None]


class Stages:
    """Tells a listener each stage as it begins, with the fraction of the whole job that is done; it never goes back.

    Args:
        progress: told the stage and the fraction.
        plan: the stages that are to come, in their order, with their expected shares of the time (in any unit).
        start: the fraction that was done before.
    """

    def __init__(self, progress: Progress, plan: Sequence[tuple[str, float]], *, start: float = 0.0) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._plan = list(plan)
        self._total = sum(weight for _, weight in plan) or 1.0
        self._start, self._done, self._told = start, 0.0, start
        self._current: tuple[str, float, float] | None = None  # name, weight, begin

    def enter(self, name: str) -> None:
        """Begin a stage; planned stages that were left out count as done."""
        self.stop()
        place = next((index for index, (planned, _) in enumerate(self._plan) if planned == name), None)
        weight = 0.0
        if place is not None:
            self._done += sum(share for _, share in self._plan[:place])
            weight = self._plan[place][1]
            del self._plan[: place + 1]
        self._current = (name, weight, time.perf_counter())
        self.within(0.0)

    def within(self, fraction: float) -> None:
        """Tell how much of the current stage is done."""
        if self._current is None:
            return
        name, weight, _ = self._current
        reached = (self._done + weight * min(max(fraction, 0.0), 1.0)) / self._total
        self._told = max(self._told, min(self._start + (1.0 - self._start) * reached, 1.0))
        self._progress(name, self._told)

    def stop(self) -> None:
        """End the current stage."""
        if self._current is not None:
            name, weight, since = self._current
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - since
            self._done += weight
            self._current = None
