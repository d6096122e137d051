"""The stages of a job: progress, and the seconds of each stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

Progress = Callable[[str, float], None]


class Stages:
    """Reports each stage as it begins, with the fraction of the whole job that is done, which never decreases.

    Args:
        progress: receives the stage and the fraction.
        plan: the coming stages, in order, with their expected shares of the time (in any unit).
        start: the fraction that was done before.
    """

    def __init__(self, progress: Progress, plan: Sequence[tuple[str, float]], *, start: float = 0.0) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._plan = list(plan)
        self._total = sum(weight for _, weight in plan) or 1.0
        self._start, self._done, self._reported = start, 0.0, start
        self._current: tuple[str, float, float] | None = None  # name, weight, begin

    def enter(self, name: str) -> None:
        """Begin a stage; planned stages that were left out count as done."""
        self.stop()
        position = next((index for index, (planned, _) in enumerate(self._plan) if planned == name), None)
        weight = 0.0
        if position is not None:
            self._done += sum(share for _, share in self._plan[:position])
            weight = self._plan[position][1]
            del self._plan[: position + 1]
        self._current = (name, weight, time.perf_counter())
        self.within(0.0)

    def within(self, fraction: float) -> None:
        """Report the fraction of the current stage that is done."""
        if self._current is None:
            return
        name, weight, _ = self._current
        reached = (self._done + weight * min(max(fraction, 0.0), 1.0)) / self._total
        self._reported = max(self._reported, min(self._start + (1.0 - self._start) * reached, 1.0))
        self._progress(name, self._reported)

    def stop(self) -> None:
        """End the current stage."""
        if self._current is not None:
            name, weight, since = self._current
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - since
            self._done += weight
            self._current = None
