"""What tests say about one child of the fork server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from workers.supervisor.endings import Ending


@dataclass
class Done:
    """What one child left."""

    ending: Ending
    log: bytes
    progress: list[tuple[str, float]] = field(default_factory=list)


RunChild = Callable[..., Done]
