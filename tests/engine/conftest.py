"""The engine's tests take the short second derivatives, though the test runner has threads of its own."""

from __future__ import annotations

import pytest

from gradinspect.engine.second_derivatives import installed


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "_is_alone", lambda: True)
