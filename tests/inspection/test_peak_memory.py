"""The reported peak memory: of one inspection, and below a bare pass that keeps its gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.tracing.run_pass import TracedPass
from gradinspect.inspection import peak_memory
from tests.support.networks.inspected import inspect

MEBI = 2**20


def chain(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())))


def test_memory_used_before_the_inspection_is_not_counted() -> None:
    before = torch.ones(64 * MEBI)  # 256 MiB, resident
    del before
    peak = inspect(chain(8, 2), torch.randn(4, 8), loss="output_mean").environment.peak_memory_bytes
    after = torch.ones(64 * MEBI)
    again = inspect(chain(8, 2), torch.randn(4, 8), loss="output_mean").environment.peak_memory_bytes
    assert peak is not None
    assert again is not None
    assert again - peak > 0.8 * after.numel() * 4


def test_without_a_reset_of_the_peak_the_whole_process_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peak_memory, "_RESET", tmp_path / "missing" / "clear_refs")
    monkeypatch.setattr(peak_memory, "_STATUS", tmp_path / "status")
    found = peak_memory.PeakMemory(torch.device("cpu")).read()
    assert found is not None
    assert found > 50 * MEBI  # torch alone is larger


def test_gradients_are_freed_as_they_are_read() -> None:
    model, x = chain(256, 12), torch.randn(64, 256)  # 12 gradients of 256 KiB, activations of 64 KiB a layer

    def bare() -> None:
        model(x).square().mean().backward()

    def inspected() -> None:
        TracedPass(model, ParameterIndex(model), [x], lambda output: output.square().mean()).run()

    inspected()  # one-time setup happens here
    alone, ours = allocated(bare), allocated(inspected)
    model.zero_grad(set_to_none=True)
    assert alone > 12 * 256 * 1024
    assert ours < 0.7 * alone


def allocated(run: Callable[[], object]) -> int:
    """Return the largest sum of live allocations of torch's CPU allocator, beyond those at the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
