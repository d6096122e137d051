"""The C library reuses freed memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

COUNTED = """
import resource, sys, torch
from gradinspect.engine.first_order.freed_memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    return [torch.ones(2**18) for _ in range(8)]  # 1 MiB each
work()
before = faults()
for _ in range(10):
    work()
print(faults() - before)
"""


# Imports map and free blocks that vary between runs and may raise the threshold; this keeps its initial value.
INITIAL_THRESHOLD = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}


def page_faults(mode: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, mode],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return int(done.stdout)


def test_freed_memory_is_reused_without_page_faults() -> None:
    pages = 80 * 2**20 // resource.getpagesize()
    assert page_faults("kept") < pages / 5  # the first round may still have some
    assert page_faults("by default", **INITIAL_THRESHOLD) > pages / 2, (
        "glibc reuses freed memory at its initial threshold too"
    )


def test_the_callers_default_device_is_not_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import torch; torch.set_default_device('meta')\n"
         "from gradinspect.engine.first_order import freed_memory\n"
         "storage = torch.UntypedStorage\n"
         "torch.UntypedStorage = lambda *a, **k: print(storage(*a, **k).device)\n"
         "freed_memory.keep_freed_memory()"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "cpu"
