"""How the C library treats memory that is freed, which decides whether the next tensor finds its pages at hand."""

from __future__ import annotations

import torch

_LARGEST_THRESHOLD = 2**25 - 2**16  # under glibc's DEFAULT_MMAP_THRESHOLD_MAX, headers included


def keep_freed_memory() -> None:
    """Let the C library reuse blocks of up to 32 MiB that are freed, rather than give their pages back each time.

    glibc raises its thresholds to the largest mapped block that was freed (`mallopt(3)`, M_MMAP_THRESHOLD), and by
    default tensors of 128 KiB are mapped, and touched page by page, again and again: a tenth of a small model's
    Hessian products. No page of the block is touched here.
    """
    torch.UntypedStorage(_LARGEST_THRESHOLD, device="cpu")  # type: ignore[no-untyped-call]  # torch leaves it untyped
