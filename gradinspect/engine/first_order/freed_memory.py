"""The C library's treatment of freed memory, which decides whether the next allocation page-faults."""

from __future__ import annotations

import torch

_LARGEST_THRESHOLD = 2**25 - 2**16  # under glibc's DEFAULT_MMAP_THRESHOLD_MAX, headers included


def keep_freed_memory() -> None:
    """Make the C library reuse freed blocks of up to 32 MiB instead of returning their pages each time.

    glibc raises its thresholds to the largest mapped block that was freed (`mallopt(3)`, M_MMAP_THRESHOLD). By default
    it maps and page-faults every tensor above 128 KiB anew, which is a tenth of the time of a small model's Hessian
    products. No page of the block that is allocated here is touched.
    """
    torch.UntypedStorage(_LARGEST_THRESHOLD, device="cpu")
