"""Types of tests that run one child of the fork server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from workers.supervisor.endings import Ending


@dataclass
class Done:
    """The ending of one child, with its log and progress."""

    ending: Ending
    log: bytes
    progress: list[tuple[str, float]] = field(default_factory=list)


RunChild = Callable[..., Done]
