"""Reading the log of a child that may write without end."""

from __future__ import annotations

import os
from itertools import count

import pytest

from workers.supervisor.supervise import LOG_BYTES, LogReader


def test_one_read_of_an_endless_log_is_bounded_and_saves_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count()

    def endless(_descriptor: int, size: int) -> bytes:
        assert next(reads) < 1000, "the read does not end"
        return b"x" * size

    reading, writing = os.pipe()
    log = LogReader(reading)
    log.head += b"first "
    with monkeypatch.context() as patch:
        patch.setattr(os, "read", endless)
        assert log.read()
    assert log.head == b"first " + b"x" * (LOG_BYTES - 6)
    os.close(reading)
    os.close(writing)


def test_the_end_of_a_log_is_noticed() -> None:
    reading, writing = os.pipe()
    log = LogReader(reading)
    os.write(writing, b"last words")
    assert log.read()
    os.close(writing)
    assert not log.read()
    assert log.head == b"last words"
    os.close(reading)
