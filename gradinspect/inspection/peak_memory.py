"""The peak memory of an inspection.

On the CPU it is the largest resident size of the whole process: since the inspection began where the kernel lets the
peak be reset (Linux), else since the process began. On a device it is the allocator's peak.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

_RESET = Path("/proc/self/clear_refs")  # writing 5 sets the peak back to what is resident now; see proc(5)
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """A measurement that begins when the object is made.

    Args:
        device: where the models are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):  # confined, or not Linux: the peak cannot be reset
            _RESET.write_text("5")

    def read(self) -> int | None:
        """Return the peak in bytes; None where the platform has no such number."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        with suppress(OSError):
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        if sys.platform == "win32":
            return None
        import resource

        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024
