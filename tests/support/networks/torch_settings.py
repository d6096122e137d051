"""Fixtures that configure torch for tests on small networks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gradinspect.engine.autograd import installed


@pytest.fixture(autouse=True)
def own_second_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the engine's second-derivative rules although the test runner has other threads."""
    monkeypatch.setattr(installed, "_is_single_threaded", lambda: True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch on one thread: networks this small are slower on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
