"""Uploaded files on disk, in one folder for each tenant, named by their SHA-256.

`service.lifecycle.artifacts` keeps rows and files together.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gradinspect.contracts.problems import ProblemError
from service.store.durable_files import new_file, no_room_is_a_problem, older_than, remove, rename_durably
from service.store.stream_writing import StreamWriter

STALE_SECONDS = 6 * 3600  # chosen: longer than any upload that is fast enough not to be cut off
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")


class FileUpload:
    """Bytes in an unfinished file."""

    def __init__(self, path: Path, final_path: Path, digest: str, size_bytes: int) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self._path = path
        self._final_path = final_path

    def open(self) -> BinaryIO:
        """Open the bytes for reading."""
        return self._path.open("rb")

    def keep(self) -> None:
        """Rename the file to its final name."""
        with no_room_is_a_problem():
            rename_durably(self._path, self._final_path)


class ArtifactFiles:
    """Files `<directory>/<tenant>/<ab>/<abcdef…>`; unfinished uploads are in `incoming` on the same disk."""

    def __init__(self, directory: Path, incoming: Path) -> None:
        self._directory = directory
        self._incoming = incoming

    @contextmanager
    def receive(
        self,
        pieces: Iterable[bytes],
        *,
        tenant: str,
        limit: int,
        expected_digest: str | None = None,
        expected_length: int | None = None,
    ) -> Iterator[FileUpload]:
        """Write bytes to an unfinished file, as `storage.Artifacts.receive` says."""
        with new_file(self._incoming) as (path, file):
            digest, size = _write(pieces, file, limit)
            if expected_length is not None and size != expected_length:
                raise ProblemError("short_body", f"{size} bytes arrived of the {expected_length} that were promised")
            if expected_digest is not None and digest != expected_digest:
                raise ProblemError("digest_mismatch", f"the bytes that arrived are {digest}")
            yield FileUpload(path, self._path_of(digest, tenant), digest, size)

    def open(self, digest: str, *, tenant: str) -> BinaryIO:
        """Open stored bytes for reading."""
        try:
            return self._path_of(digest, tenant).open("rb")
        except FileNotFoundError:
            raise ProblemError("not_found", f"the bytes of {digest} are not in the store; upload them again") from None

    def delete(self, digest: str, *, tenant: str) -> bool:
        """Remove stored bytes; return whether there were any."""
        return remove(self._path_of(digest, tenant))

    def listed(self, *, older_than_seconds: float) -> Iterator[tuple[str, str]]:
        """Yield tenant and digest of everything stored at least `older_than_seconds` ago."""
        for path in older_than(self._directory.glob("*/*/*"), older_than_seconds):
            yield path.parent.parent.name, f"sha256:{path.name}"

    def sweep_incoming(self, *, older_than_seconds: float = STALE_SECONDS) -> int:
        """Remove unfinished files of killed processes; return how many."""
        return sum(remove(path) for path in older_than(self._incoming.glob("*"), older_than_seconds))

    def _path_of(self, digest: str, tenant: str) -> Path:
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise ProblemError("not_found", "an artifact's id is sha256: and 64 lowercase hexadecimal digits")
        if _TENANT.fullmatch(tenant) is None:
            raise ValueError(f"{tenant!r} cannot be the name of a tenant's folder")
        return self._directory / tenant / match[1][:2] / match[1]


def _write(pieces: Iterable[bytes], file: BinaryIO, limit: int) -> tuple[str, int]:
    """Copy the pieces to disk; return digest and size."""
    digest, size = hashlib.sha256(), 0
    with StreamWriter(file) as writer:
        for piece in pieces:
            size += len(piece)
            if size > limit:
                raise ProblemError("too_large", f"the body is larger than {limit} bytes, the limit for an upload")
            writer.write(piece)
            digest.update(piece)
        writer.finish()
    return f"sha256:{digest.hexdigest()}", size
