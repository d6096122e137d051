"""The arrival of one request, byte by byte: whether its header and its small body are there, and until when to wait.

This reads just enough of HTTP/1.1 to decide that; gunicorn's parser reads the request and refuses what is malformed.
Only chunks, for which that parser would wait in a thread, are refused here.
"""

from __future__ import annotations

import re
from time import monotonic
from typing import Literal

HEADER_SECONDS = 10.0  # chosen: for a whole header; a browser on a bad line takes one
STALL_SECONDS = 20.0  # chosen: longer than any pause of a working network
MOST_HEADER_BYTES = 64 * 1024  # gunicorn refuses less than this
MOST_CHUNK_LINE = 256
SLOWEST_BYTES_PER_SECOND = 16 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_UPLOAD = re.compile(rb"(PUT|POST) /v1/artifacts[/ ?]|.*^content-type:[ \t]*multipart/", re.S | re.I | re.M)
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,15})[ \t]*\r?$", re.I | re.M)
_CHUNKED = re.compile(rb"^transfer-encoding:[^\r\n]*chunked", re.I | re.M)
_EXPECT = re.compile(rb"^expect:[ \t]*100-continue", re.I | re.M)
_SIZE = re.compile(rb"([0-9a-f]{1,8})[ \t]*(;[^\r\n]*)?\r\n", re.I)


class Arrival:
    """What has arrived of a request.

    Args:
        most_body_bytes: bodies up to this size are waited for; longer ones and uploads are read by the application.
        first_byte_seconds: how long to wait for the first byte.

    Attributes:
        data: everything so far.
        deadline: of the next byte, on the monotonic clock.
        expects_continue: the client waits for `CONTINUE` before it sends the body.
        refused: why the request cannot be answered, once it has "arrived".
    """

    def __init__(self, most_body_bytes: int, *, first_byte_seconds: float = HEADER_SECONDS) -> None:
        self.data = bytearray()
        self.deadline = monotonic() + first_byte_seconds
        self.expects_continue = False
        self.refused: Literal["bad_request", "too_large"] | None = None
        self._most = most_body_bytes
        self._body_at = 0  # where the body begins; 0 before the header is complete
        self._end = 0  # where the body ends, if its length is declared
        self._chunk_at = 0  # where the next chunk begins, if the body is chunked
        self._last_deadline = 0.0

    @property
    def has_header(self) -> bool:
        """Check whether the header is complete."""
        return self._body_at > 0

    def feed(self, piece: bytes) -> bool:
        """Add bytes; return whether the request can be handed to a thread."""
        if not self.data:
            self.deadline = monotonic() + HEADER_SECONDS
        searched = max(0, len(self.data) - 3)
        self.data += piece
        if not self._body_at:
            end = self.data.find(b"\r\n\r\n", searched)
            if end < 0:
                return len(self.data) > MOST_HEADER_BYTES
            self._read_header(end + 4)
        else:
            self.deadline = min(monotonic() + STALL_SECONDS, self._last_deadline)
        return self._has_body()

    def _read_header(self, end: int) -> None:
        self._body_at = self._end = self._chunk_at = end
        header = bytes(self.data[:end])
        if _UPLOAD.match(header):
            return
        length = _LENGTH.search(header)
        if _CHUNKED.search(header):
            self._end = -1
        elif length is not None and int(length[1]) <= self._most:
            self._end = end + int(length[1])
        else:
            return  # no body, or one that is refused unread
        self.expects_continue = _EXPECT.search(header) is not None and not self._has_body()
        now = monotonic()
        self._last_deadline = now + STALL_SECONDS + self._most / SLOWEST_BYTES_PER_SECOND
        self.deadline = now + STALL_SECONDS

    def _has_body(self) -> bool:
        return len(self.data) >= self._end if self._end >= 0 else self._has_chunks()

    def _has_chunks(self) -> bool:
        """Follow the chunks; refuse a malformed one, and one that ends beyond the limit."""
        while True:
            size = _SIZE.match(self.data, self._chunk_at)
            if size is None:
                line = self.data[self._chunk_at : self._chunk_at + MOST_CHUNK_LINE]
                return self._refuse("bad_request") if b"\n" in line or len(line) == MOST_CHUNK_LINE else False
            if int(size[1], 16) == 0:
                trailers = self.data[size.end() : size.end() + MOST_HEADER_BYTES]
                has_ended = trailers.startswith(b"\r\n") or b"\r\n\r\n" in trailers
                return has_ended or (len(trailers) == MOST_HEADER_BYTES and self._refuse("bad_request"))
            end = size.end() + int(size[1], 16)
            if end - self._body_at > self._most + MOST_HEADER_BYTES:  # the lines of the chunks count too
                return self._refuse("too_large")
            following = self.data[end : end + 2]
            if following != b"\r\n":
                return self._refuse("bad_request") if len(following) == 2 else False
            self._chunk_at = end + 2

    def _refuse(self, code: Literal["bad_request", "too_large"]) -> bool:
        self.refused = code
        return True
