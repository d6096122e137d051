"""Progress is shown on a terminal only."""

import io
import sys

import pytest

from gradinspect.cli.progress import shown_progress


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", seen := Terminal())
    with shown_progress("inspecting \x1b[2Jnet") as progress:
        progress("backward", 0.5)
    assert "inspecting" in seen.getvalue()
    assert "backward" in seen.getvalue()
    assert "\x1b[2J" not in seen.getvalue()


def test_a_file_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", seen := io.StringIO())
    with shown_progress("inspecting net") as progress:
        progress("backward", 0.5)
    assert seen.getvalue() == ""
