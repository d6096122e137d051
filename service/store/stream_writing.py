"""Writing a long stream to disk while the sender's next bytes are read and hashed.

Space is reserved ahead of the writes: the file system then allocates a gibibyte in a tenth of the time, and a full disk
is known before more bytes are read. A long stream bypasses the page cache, so that it neither evicts what others read
nor leaves its own writing to the sync at the end.
"""

from __future__ import annotations

import errno
import fcntl
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from mmap import mmap
from types import TracebackType
from typing import BinaryIO

from service.store.durable_files import write_all

BUFFER_BYTES = 2**20
RESERVED_BYTES = 64 * 2**20
CACHED_BYTES = 8 * 2**20
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class StreamWriter:
    """Two buffers in turn: one is written while the other is filled. An error of the first is raised with the next.

    Args:
        file: unbuffered, empty, at its start.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="disk")  # started by the first full buffer
        self._pending: Future[None] | None = None
        # Allocated once: new memory for each mebibyte would cost more than the writing.
        self._filling, self._other = memoryview(mmap(-1, BUFFER_BYTES)), memoryview(mmap(-1, BUFFER_BYTES))
        self._filled = 0
        self._size = 0
        self._reserved = 0
        self._may_be_direct = hasattr(os, "O_DIRECT")
        self._is_direct = False

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def write(self, piece: bytes) -> None:
        """Accept a piece of any size. Waits while both buffers are full."""
        rest = memoryview(piece)
        while rest:
            taken = min(len(rest), BUFFER_BYTES - self._filled)
            self._filling[self._filled : self._filled + taken] = rest[:taken]
            self._filled += taken
            rest = rest[taken:]
            if self._filled == BUFFER_BYTES:
                self._wait()
                self._pending = self._thread.submit(self._write, self._filling)
                self._filling, self._other, self._filled = self._other, self._filling, 0

    def finish(self) -> None:
        """Wait until every byte is on the disk."""
        self._wait()
        if self._is_direct:
            self._set_direct(0)  # the end has any length; direct writes need whole blocks
        self._write(self._filling[: self._filled])
        if self._reserved > self._size:
            os.ftruncate(self._file.fileno(), self._size)
        os.fsync(self._file.fileno())

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _write(self, piece: memoryview) -> None:
        self._reserve(self._size + len(piece))
        write_all(self._file, piece)
        self._size += len(piece)
        self._bypass_cache()

    def _reserve(self, size: int) -> None:
        """Reserve as much again as is written, up to a bound: an upload may promise more than it sends."""
        if size <= self._reserved or not hasattr(os, "posix_fallocate"):
            return
        ahead = min(size, RESERVED_BYTES)
        try:
            os.posix_fallocate(self._file.fileno(), self._size, size + ahead - self._size)
            self._reserved = size + ahead
        except OSError as failure:
            if failure.errno not in _CANNOT_RESERVE:
                raise

    def _bypass_cache(self) -> None:
        """Bypass the page cache from here on, where the file system can: a long upload is not read back at once."""
        if not self._may_be_direct or self._size < CACHED_BYTES:
            return
        self._may_be_direct = False
        with suppress(OSError):  # tmpfs cannot
            self._set_direct(os.O_DIRECT)
            self._is_direct = True

    def _set_direct(self, flag: int) -> None:
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~os.O_DIRECT | flag)
