"""GPUs of this worker's jobs, found without torch, because only children load the driver."""

from __future__ import annotations

import os
import re
from pathlib import Path

_DEVICE = re.compile(r"nvidia\d+")


def visible_gpus() -> list[str]:
    """Return the devices in `CUDA_VISIBLE_DEVICES`, else one number for each device node."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    count = sum(1 for path in Path("/dev").glob("nvidia*") if _DEVICE.fullmatch(path.name))
    return [str(index) for index in range(count)]
