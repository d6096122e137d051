"""A child that writes without end keeps nobody from looking at the clock."""

from __future__ import annotations

import os
from itertools import count

import pytest

from workers.supervisor import supervise
from workers.supervisor.supervise import LOG_BYTES


def test_a_log_without_end_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count()

    def endless(_descriptor: int, size: int) -> bytes:
        assert next(reads) < 1000, "it reads on and on"
        return b"x" * size

    monkeypatch.setattr(supervise.os, "read", endless)
    kept = bytearray(b"first ")
    assert supervise._read_log(99, kept)
    assert kept == b"first " + b"x" * (LOG_BYTES - 6)


def test_the_end_of_a_log_is_noticed() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    kept = bytearray()
    os.write(writing, b"last words")
    assert supervise._read_log(reading, kept)
    os.close(writing)
    assert not supervise._read_log(reading, kept)
    assert kept == b"last words"
    os.close(reading)
