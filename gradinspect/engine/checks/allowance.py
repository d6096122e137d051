"""The time that all self-checks of a report may take together."""

from __future__ import annotations

import time

BARE_SHARE = 0.7  # of the traced pass, which takes up to 1.5 times the bare one
LEAST_SECONDS = 0.025  # chosen: a pass, its rules and the checks of a small model stay under 60 ms


class Allowance:
    """CPU seconds of this thread, so that other load on the machine changes nothing.

    Args:
        pass_cpu_seconds: CPU time of the first pass.
    """

    def __init__(self, pass_cpu_seconds: float) -> None:
        self.pass_seconds = pass_cpu_seconds
        self._end = time.thread_time() + max(BARE_SHARE * pass_cpu_seconds, LEAST_SECONDS)

    def allows(self, passes: float) -> bool:
        """Check that a number of passes over the batch still fits."""
        return self.allows_seconds(passes * self.pass_seconds)

    def allows_seconds(self, seconds: float) -> bool:
        """Check that CPU seconds still fit."""
        return time.thread_time() + seconds <= self._end
