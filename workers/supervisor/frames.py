"""Frames of a child, parsed as untrusted input: strict JSON of known frames, bounded in size and number."""

from __future__ import annotations

import os
from collections.abc import Iterator

from gradinspect.contracts.document import from_json
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.wire.messages import FailureFrame, ProgressFrame, ResultFrame

Frame = ProgressFrame | ResultFrame | FailureFrame
READ_BYTES = 2**18
ROOM_FOR_PROGRESS = 2**16  # bytes in addition to the result; a progress frame has about 60
MOST_PROGRESS_FRAMES = 10_000  # chosen: ten times the longest job's; reading them takes half a second

# Failure codes that a child may report; the supervisor assigns all others.
REPORTABLE = frozenset(
    {
        "invalid_model",
        "unsupported_operator",
        "data_mismatch",
        "model_error",
        "no_gradient",
        "memory_limit",
        "sandbox_violation",
        "internal",
    }
)
_KINDS: tuple[tuple[bytes, type[Frame]], ...] = (
    (b'{"type":"progress"', ProgressFrame),
    (b'{"type":"result"', ResultFrame),
    (b'{"type":"failure"', FailureFrame),
)


class HostileFrameError(Exception):
    """A line is no valid frame; the message says why."""


class OversizedResultError(Exception):
    """More bytes came than a result may have."""


class FrameReader:
    """Splits a pipe into frames and validates each.

    Args:
        descriptor: the reading end; it is made non-blocking.
        limit: largest number of bytes of a result.
    """

    def __init__(self, descriptor: int, *, limit: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._limit = limit
        self._pieces: list[bytes] = []
        self._total = 0
        self._progress_left = MOST_PROGRESS_FRAMES
        self.is_open = True

    def read(self) -> Iterator[Frame]:
        """Yield the frames that have arrived, and set `is_open` to False after the last.

        Raises:
            HostileFrameError: a line is not a frame.
            OversizedResultError: the result is larger than the limit.
        """
        while True:
            try:
                piece = os.read(self._descriptor, READ_BYTES)
            except BlockingIOError:
                return
            if not piece:
                self.is_open = False
                return
            self._total += len(piece)
            if self._total > self._limit + ROOM_FOR_PROGRESS:
                raise OversizedResultError(f"the result is larger than {self._limit} bytes")
            *lines, rest = piece.split(b"\n")
            for line in lines:
                frame = parse_frame(b"".join([*self._pieces, line]))
                self._pieces = []
                if isinstance(frame, ProgressFrame):
                    self._progress_left -= 1
                    if self._progress_left < 0:
                        raise HostileFrameError(f"more than {MOST_PROGRESS_FRAMES} frames of progress")
                yield frame
            if rest:
                self._pieces.append(rest)


def parse_frame(line: bytes) -> Frame:
    """Validate one line.

    Raises:
        HostileFrameError: it is not strict JSON of a known frame with finite numbers, bounded names and known fields.
    """
    kind = next((kind for start, kind in _KINDS if line.startswith(start)), None)
    if kind is None:
        raise HostileFrameError(f"a frame begins with {line[:24]!r}")
    try:
        frame = from_json(kind, line)
    except ProblemError as error:
        raise HostileFrameError(str(error)[:1000]) from None
    if isinstance(frame, FailureFrame) and frame.code not in REPORTABLE:
        raise HostileFrameError(f"a child may not fail with {frame.code[:64]!r}")
    return frame
