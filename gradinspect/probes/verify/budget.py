"""The training steps and seconds that all probes of one inspection may use together."""

from __future__ import annotations

import time

from gradinspect.contracts.request.request import LrScalesRequest
from gradinspect.engine.first_order.context import SectionInput

SHARE_OF_JOB = 0.9  # of the seconds that the whole inspection has left; the rest is for the report


class ProbeBudget:
    """Steps and seconds spent, and whether another run fits.

    The limit in steps is reproducible; the limit in seconds is for machines that are slower than expected.
    `is_exhausted` is set when either limit has cut something off.
    """

    def __init__(self, *, max_steps: int, max_seconds: float) -> None:
        self.max_steps, self.max_seconds = max_steps, max_seconds
        self.steps_run = 0
        self.is_exhausted = False
        self._started = time.perf_counter()

    @classmethod
    def of_scales(cls, s: SectionInput, request: LrScalesRequest) -> ProbeBudget:
        """Make the budget that a request for learning-rate scales sets."""
        return cls(
            max_steps=request.max_steps,
            max_seconds=min(request.max_seconds, max(s.budget.seconds_left, 0.0) * SHARE_OF_JOB),
        )

    def in_time(self) -> bool:
        """Check that seconds are left. Called before each step, because the first run's pace is unknown."""
        is_over = time.perf_counter() - self._started > self.max_seconds
        self.is_exhausted = self.is_exhausted or is_over
        return not is_over

    @property
    def fraction_spent(self) -> float:
        """Return the spent fraction, in [0, 1], of the limit that is closer."""
        seconds = (time.perf_counter() - self._started) / self.max_seconds if self.max_seconds > 0 else 1.0
        return min(max(self.steps_run / self.max_steps, seconds), 1.0)

    def allows(self, steps: int) -> bool:
        """Check that a run of `steps` steps fits, at the mean pace so far."""
        spent = time.perf_counter() - self._started
        expected = spent * steps / self.steps_run if self.steps_run else 0.0
        fits = self.steps_run + steps <= self.max_steps and spent + expected <= self.max_seconds
        self.is_exhausted = self.is_exhausted or not fits
        return fits

    def spend(self, steps: int) -> None:
        """Add steps that were run."""
        self.steps_run += steps
