"""What tests say about one child of the fork server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workers.endings import Ending

SPEC: dict[str, Any] = {
    "input": {"shape": [4]},
    "layers": [{"type": "Linear", "out_features": 8}, {"type": "ReLU"}, {"type": "Linear", "out_features": 3}],
}


@dataclass
class Done:
    """What one child left."""

    ending: Ending
    log: bytes
    progress: list[tuple[str, float]] = field(default_factory=list)


RunChild = Callable[..., Done]
