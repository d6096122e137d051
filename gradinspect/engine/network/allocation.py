"""Recognition of failed allocations."""

from __future__ import annotations

import torch


def out_of_memory(error: BaseException) -> bool:
    """Check whether an exception means that an allocation failed, on the CPU or on a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and ("allocate memory" in str(error) or "bad_alloc" in str(error))
