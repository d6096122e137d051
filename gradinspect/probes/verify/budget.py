"""What all probes of one inspection may cost together: training steps, and seconds."""

from __future__ import annotations

import time

from gradinspect.contracts.request.request import LrScalesRequest
from gradinspect.engine.first_order.context import SectionInput

SHARE_OF_JOB = 0.9  # of the seconds that the whole inspection has left; the rest is for the report


class ProbeBudget:
    """Counts what was spent, and says whether a run still fits.

    The limit in steps decides the same way every time; the limit in seconds is for machines that are slower than
    expected, and `is_exhausted` tells that it, or the other, has cut something off.
    """

    def __init__(self, s: SectionInput, request: LrScalesRequest) -> None:
        self.max_steps = request.max_steps
        self.max_seconds = min(request.max_seconds, max(s.budget.seconds_left, 0.0) * SHARE_OF_JOB)
        self.steps_run = 0
        self.is_exhausted = False
        self._started = time.perf_counter()

    def in_time(self) -> bool:
        """Whether there are seconds left: asked before each step, for a first run has no pace to be judged by."""
        is_over = time.perf_counter() - self._started > self.max_seconds
        self.is_exhausted = self.is_exhausted or is_over
        return not is_over

    @property
    def fraction_spent(self) -> float:
        """Of the scarcer of the two, from 0 to 1."""
        seconds = (time.perf_counter() - self._started) / self.max_seconds if self.max_seconds > 0 else 1.0
        return min(max(self.steps_run / self.max_steps, seconds), 1.0)

    def allows(self, steps: int) -> bool:
        """Whether a run of so many steps still fits, at the mean pace so far."""
        spent = time.perf_counter() - self._started
        expected = spent * steps / self.steps_run if self.steps_run else 0.0
        fits = self.steps_run + steps <= self.max_steps and spent + expected <= self.max_seconds
        self.is_exhausted = self.is_exhausted or not fits
        return fits

    def spend(self, steps: int) -> None:
        """Count steps that were run."""
        self.steps_run += steps
