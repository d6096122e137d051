"""Whether the C library keeps what is freed."""

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


# What imports map and free differs from run to run, and may raise the threshold by chance; held here where it starts.
HELD = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}


def page_faults(how: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, how],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return int(done.stdout)


def test_what_is_freed_is_used_again_without_a_page_fault() -> None:
    pages = 80 * 2**20 // resource.getpagesize()
    assert page_faults("kept") < pages / 5  # the first round may still take some
    assert page_faults("by default", **HELD) > pages / 2, "freed memory is kept at glibc's own threshold"


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
