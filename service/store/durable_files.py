"""Files that have all their bytes or do not exist: written beside their place, synced, renamed."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import BinaryIO

from gradinspect.contracts.problems import ProblemError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def new_file(directory: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file under a passing name; what was not renamed by the end is gone.

    Raises:
        ProblemError: `disk_full`, when anything inside runs out of room.
    """
    with no_room_is_a_problem():
        directory.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=directory)
    path = Path(name)
    try:
        with no_room_is_a_problem(), os.fdopen(descriptor, "wb", buffering=0) as file:
            yield path, file
    finally:
        path.unlink(missing_ok=True)


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write every byte; a raw file may take fewer at once, and does so when the disk fills up."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def put_in_place(path: Path, place: Path) -> None:
    """Give a synced file its final name, so that the name survives a power cut too."""
    place.parent.mkdir(parents=True, exist_ok=True)
    path.replace(place)
    descriptor = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> bool:
    """Delete a file; False when there was none."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def older_than(paths: Iterable[Path], seconds: float) -> Iterator[Path]:
    """Those files that were last written so long ago, by the clock of this machine; only sweeps depend on it."""
    limit = time() - seconds
    for path in paths:
        try:
            is_older = path.stat().st_mtime <= limit
        except FileNotFoundError:
            continue
        if is_older:
            yield path


@contextmanager
def no_room_is_a_problem() -> Iterator[None]:
    """Turn "no space left" into what the caller can be told.

    Raises:
        ProblemError: `disk_full`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise ProblemError("disk_full", "the disk under the store is full") from error
        raise
