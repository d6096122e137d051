"""The memory that an inspection may still take, from its limit and what the process has come to hold."""

from __future__ import annotations

import sys

import torch


class MemoryLeft:
    """A limit, counted from when the object is made.

    Args:
        device: where the models are.
        limit_bytes: in addition to what the process holds then; None: unlimited.
    """

    def __init__(self, device: torch.device, limit_bytes: int | None) -> None:
        self._device, self._limit = device, limit_bytes
        self._before = _peak_bytes()

    def left_bytes(self) -> int | None:
        """Return what is left above the peak so far, on a device what is free; None where no limit is known.

        Opens no file, so that it works in a confined process.
        """
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            return int(free + torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device))
        now = _peak_bytes()
        if self._limit is None or self._before is None or now is None:
            return None
        return self._limit - (now - self._before)


def _peak_bytes() -> int | None:
    """Return the largest resident size of this process; None on systems without one."""
    if sys.platform == "win32":
        return None
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
