"""Waiting for an inspection without a database connection, for a bounded number of requests at once.

Each waiting request holds a thread of the server. Requests without a free slot are answered at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import TypeVar

from service.context import ConcurrencyLimit

LONGEST_WAIT_SECONDS = 30
FIRST_PAUSE_SECONDS = 0.005  # chosen: a small inspection takes about 50 ms
LONGEST_PAUSE_SECONDS = 0.25  # chosen: 64 waiters ask the database 256 times a second, at 0.1 ms each
PAUSE_GROWTH = 1.15  # the longest delay between the end of an inspection and the response

StateT = TypeVar("StateT")


def pauses() -> Iterator[float]:
    """Yield the seconds between two reads: short at first, for quick inspections, then longer."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(LONGEST_PAUSE_SECONDS, pause * PAUSE_GROWTH)


def wait_for(
    look: Callable[[], StateT], *, until: Callable[[StateT], bool], seconds: float, slots: ConcurrencyLimit
) -> StateT:
    """Read until the state is right or the time is over (only once without a free slot); return the last state."""
    state = look()
    if seconds <= 0 or until(state):
        return state
    deadline = monotonic() + seconds
    with slots.hold_if_free() as may_wait:
        for pause in pauses():
            remaining = deadline - monotonic()
            if not may_wait or remaining <= 0:
                return state
            sleep(min(pause, remaining))
            state = look()
            if until(state):
                return state
    raise AssertionError("pauses never end")
