"""Peak memory of torch's CPU allocator during a run, above its level before."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the largest sum of live allocations above the start, in bytes; frees of older memory are negative.

    Source: the profiler's memory events, each with the bytes allocated or freed.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    held = peak = 0
    events = recorded.profiler.kineto_results.events() if recorded.profiler is not None else []
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def memory_ratio(model: torch.nn.Module, run: Callable[[], object], bare: Callable[[], object]) -> float:
    """Return the peak of a run over that of a bare pass, both from a start without gradients."""
    peaks = []
    for work in (run, bare):
        model.zero_grad(set_to_none=True)
        peaks.append(peak_bytes(work))
    model.zero_grad(set_to_none=True)
    return peaks[0] / peaks[1]
