"""Frames of a child are untrusted until they are validated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from gradinspect.contracts.report.report import Measurements
from gradinspect.contracts.wire.messages import FailureFrame, ProgressFrame, ResultFrame
from gradinspect.testing.measurements import chain, measurements
from workers.child.runner import result_pieces
from workers.supervisor.frames import (
    MOST_PROGRESS_FRAMES,
    ROOM_FOR_PROGRESS,
    FrameReader,
    HostileFrameError,
    OversizedResultError,
    parse_frame,
)

PROGRESS = b'{"type":"progress","stage":"forward","fraction":0.5}'


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with suppress(OSError):  # closed by the test
            os.close(descriptor)


def test_frames_are_parsed_wherever_the_pipe_splits_them(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    reader = FrameReader(reading, limit=1000)
    found = []
    for piece in (PROGRESS[:10], PROGRESS[10:] + b"\n" + PROGRESS, b"\n"):
        os.write(writing, piece)
        found += list(reader.read())
    assert found == [ProgressFrame(stage="forward", fraction=0.5)] * 2
    assert reader.is_open
    os.close(writing)
    assert list(reader.read()) == []
    assert not reader.is_open


def test_a_result_over_the_limit_is_refused(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    reader = FrameReader(reading, limit=100)
    for _ in range(ROOM_FOR_PROGRESS // 1000):
        os.write(writing, b"x" * 1000)
        assert list(reader.read()) == []
    os.write(writing, b"x" * 1000)
    with pytest.raises(OversizedResultError):
        list(reader.read())


def test_endless_progress_is_refused_within_the_size_of_a_result(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    reader, told = FrameReader(reading, limit=2**26), 0
    while told < MOST_PROGRESS_FRAMES:
        os.write(writing, (PROGRESS + b"\n") * 1000)
        told += len(list(reader.read()))
    os.write(writing, PROGRESS + b"\n")
    with pytest.raises(HostileFrameError, match="frames of progress"):
        list(reader.read())


@pytest.mark.parametrize("measured", [measurements([], []), chain((0.5,)), chain()], ids=["empty", "two", "six"])
def test_a_result_that_is_written_row_by_row_is_the_same_frame(measured: Measurements) -> None:
    frame = ResultFrame(measurements=measured)
    text = b"".join(result_pieces(frame))
    assert parse_frame(text) == frame
    assert b"\n" not in text


def test_a_failure_frame_has_its_code_and_detail() -> None:
    frame = parse_frame(b'{"type":"failure","code":"no_gradient","detail":"nothing requires one"}')
    assert frame == FailureFrame(code="no_gradient", detail="nothing requires one")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"\x80\x04K\x01.",
        b'{"type":"progress","stage":"forward","fraction":NaN}',
        b'{"type":"progress","stage":"forward","fraction":2}',
        b'{"type":"progress","stage":"forward","fraction":true}',
        b'{"type":"progress","stage":"a","stage":"b","fraction":0}',
        b'{"type":"progress","stage":"forward","fraction":0,"more":1}',
        b'{"type":"progress","stage":"' + b"x" * 600 + b'","fraction":0}',
        b'{"type":"progress","stage":"\xff","fraction":0}',
        b'{"type":"failure","code":"worker_lost","detail":""}',
        b'{"type":"failure","code":"cpu_limit","detail":""}',
        b'{"type":"result","measurements":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"type":"result","measurements":{"summary":{"loss":1e999}}}',
    ],
    ids=lambda line: repr(line[:40]),
)
def test_an_invalid_line_is_refused(line: bytes) -> None:
    with pytest.raises(HostileFrameError):
        parse_frame(line)
