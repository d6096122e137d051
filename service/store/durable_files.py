"""Files that are complete or absent: written under a temporary name, synced, renamed."""

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
    """Create a file under a temporary name and remove it at the end unless it was renamed.

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
    """Write every byte. A raw file may accept fewer in one call, and does so when the disk fills up."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def rename_durably(path: Path, final_path: Path) -> None:
    """Rename a synced file and sync the folder, so that the name survives a power cut too."""
    final_path.parent.mkdir(parents=True, exist_ok=True)
    path.replace(final_path)
    descriptor = os.open(final_path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> bool:
    """Delete a file; return whether it existed."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def older_than(paths: Iterable[Path], seconds: float) -> Iterator[Path]:
    """Yield the files last written at least `seconds` ago by this machine's clock, on which only sweeps depend."""
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
    """Turn "no space left" into a problem of the API.

    Raises:
        ProblemError: `disk_full`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise ProblemError("disk_full", "the disk under the store is full") from error
        raise
