"""Uploaded files on disk, by tenant and SHA-256. `service.lifecycle.artifacts` keeps rows and files together.

Each tenant has a folder of its own: equal bytes of two tenants are two files, and neither learns of the other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gradinspect.contracts.problems import ProblemError
from service.store.durable_files import new_file, no_room_is_a_problem, older_than, put_in_place, remove
from service.store.stream_writing import StreamWriter

STALE_SECONDS = 6 * 3600  # chosen: an upload that is fast enough not to be cut off has long ended
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class StoredObject:
    """Bytes that lie in the store."""

    digest: str
    size_bytes: int
    is_new: bool


class Upload:
    """Bytes that have arrived, whole and checked, but are not accepted yet. Look at `path`, then `keep` them."""

    def __init__(self, path: Path, place: Path, digest: str, size_bytes: int) -> None:
        self.path = path
        self.digest = digest
        self.size_bytes = size_bytes
        self._place = place

    def keep(self) -> StoredObject:
        """Move the bytes to their place, for good; the same bytes may lie there already.

        Raises:
            ProblemError: `disk_full`.
        """
        is_new = not self._place.exists()
        with no_room_is_a_problem():
            put_in_place(self.path, self._place)
        return StoredObject(self.digest, self.size_bytes, is_new)


class ArtifactFiles:
    """`<directory>/<tenant>/<ab>/<abcdef…>`, with unfinished uploads in `<incoming>` on the same disk."""

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
    ) -> Iterator[Upload]:
        """Take bytes in, with their SHA-256 counted on the way; what was not kept by the end is gone.

        Args:
            pieces: the bytes in order, in pieces of any size.
            limit: most bytes.
            expected_digest: `sha256:…` that the sender promised.
            expected_length: bytes that the sender promised.

        Raises:
            ProblemError: `too_large`, `short_body`, `digest_mismatch`, `disk_full`. Whatever `pieces` raises.
        """
        with new_file(self._incoming) as (path, file):
            digest, size = _write(pieces, file, limit)
            if expected_length is not None and size != expected_length:
                raise ProblemError("short_body", f"{size} bytes arrived of the {expected_length} that were promised")
            if expected_digest is not None and digest != expected_digest:
                raise ProblemError("digest_mismatch", f"the bytes that arrived are {digest}")
            yield Upload(path, self._place(digest, tenant), digest, size)

    def put_stream(
        self,
        pieces: Iterable[bytes],
        *,
        tenant: str,
        limit: int,
        expected_digest: str | None = None,
        expected_length: int | None = None,
    ) -> StoredObject:
        """Take bytes in and keep them. Arguments and problems as for `receive`."""
        with self.receive(
            pieces, tenant=tenant, limit=limit, expected_digest=expected_digest, expected_length=expected_length
        ) as upload:
            return upload.keep()

    def open(self, digest: str, *, tenant: str) -> BinaryIO:
        """Open kept bytes for reading.

        Raises:
            ProblemError: `not_found`.
        """
        try:
            return self._place(digest, tenant).open("rb")
        except FileNotFoundError:
            raise ProblemError("not_found", f"the bytes of {digest} are not in the store; upload them again") from None

    def size(self, digest: str, *, tenant: str) -> int | None:
        """How many bytes are kept under this name; None when there are none."""
        try:
            return self._place(digest, tenant).stat().st_size
        except FileNotFoundError:
            return None

    def delete(self, digest: str, *, tenant: str) -> bool:
        """Remove kept bytes; False when there were none. Readers that have them open read on."""
        return remove(self._place(digest, tenant))

    def listed(self, *, older_than_seconds: float) -> Iterator[tuple[str, str]]:
        """The tenant and digest of everything that has been kept so long."""
        for path in older_than(self._directory.glob("*/*/*"), older_than_seconds):
            yield path.parent.parent.name, f"sha256:{path.name}"

    def sweep_incoming(self, *, older_than_seconds: float = STALE_SECONDS) -> int:
        """Remove what killed processes left of unfinished uploads; returns how many files."""
        return sum(remove(path) for path in older_than(self._incoming.glob("*"), older_than_seconds))

    def _place(self, digest: str, tenant: str) -> Path:
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise ProblemError("not_found", "an artifact's id is sha256: and 64 lowercase hexadecimal digits")
        if _TENANT.fullmatch(tenant) is None:
            raise ValueError(f"{tenant!r} cannot be the name of a tenant's folder")
        return self._directory / tenant / match[1][:2] / match[1]


def _write(pieces: Iterable[bytes], file: BinaryIO, limit: int) -> tuple[str, int]:
    """Copy to the file, onto the disk, and give digest and size."""
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
