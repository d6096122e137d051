"""The interface of the store: everything the service keeps as bytes rather than as rows.

`open_store` chooses the implementation; no other module knows where the bytes are. A new implementation is one module
with these methods and its line in `open_store`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from gradinspect.contracts.report.report import Report
from service.settings import Settings
from service.store.local import LocalStore


class Upload(Protocol):
    """Bytes that have arrived whole and are not accepted yet."""

    @property
    def digest(self) -> str:
        """`sha256:…` of the bytes."""

    @property
    def size_bytes(self) -> int:
        """Number of bytes."""

    def open(self) -> BinaryIO:
        """Open the bytes for reading; seekable."""

    def keep(self) -> None:
        """Accept the bytes for good. Equal bytes may be stored already.

        Raises:
            ProblemError: `disk_full`.
        """


class Artifacts(Protocol):
    """Uploaded bytes by tenant and SHA-256. Equal bytes of two tenants are stored twice; neither sees the other's."""

    def receive(
        self,
        pieces: Iterable[bytes],
        *,
        tenant: str,
        limit: int,
        expected_digest: str | None = None,
        expected_length: int | None = None,
    ) -> AbstractContextManager[Upload]:
        """Spool bytes and hash them on the way; what is not kept by the end is removed.

        Args:
            pieces: the bytes in order, in pieces of any size.
            tenant: owner of the bytes.
            limit: largest number of bytes.
            expected_digest: `sha256:…` that the sender promised.
            expected_length: number of bytes that the sender promised.

        Raises:
            ProblemError: `too_large`, `short_body`, `digest_mismatch`, `disk_full`; and whatever `pieces` raises.
        """

    def open(self, digest: str, *, tenant: str) -> BinaryIO:
        """Open stored bytes for reading: a real file, whose descriptor another process can inherit.

        Raises:
            ProblemError: `not_found`.
        """

    def delete(self, digest: str, *, tenant: str) -> bool:
        """Remove stored bytes and return whether there were any. Readers that have them open can go on reading."""

    def listed(self, *, older_than_seconds: float) -> Iterator[tuple[str, str]]:
        """Yield tenant and digest of everything stored at least `older_than_seconds` ago."""

    def sweep_incoming(self) -> int:
        """Remove unfinished uploads of killed processes; return how many."""


class Reports(Protocol):
    """Whole reports, one for each attempt that succeeded."""

    def put(self, report: Report, *, inspection_id: str, attempt: int) -> str:
        """Store a report and return its key, which goes into the inspection's row.

        Raises:
            ProblemError: `disk_full`.
        """

    def read(self, key: str) -> bytes:
        """Return the JSON of a report as it was written.

        Raises:
            ProblemError: `not_found`.
        """

    def get(self, key: str) -> Report:
        """Return a report.

        Raises:
            ProblemError: `not_found`.
        """

    def delete(self, key: str) -> bool:
        """Remove a report and return whether there was one."""

    def listed(self, *, older_than_seconds: float) -> Iterator[str]:
        """Yield the key of every report stored at least `older_than_seconds` ago."""


class Store(Protocol):
    """What all processes of one service share besides the database."""

    @property
    def artifacts(self) -> Artifacts:
        """Uploaded bytes."""

    @property
    def reports(self) -> Reports:
        """Whole reports."""


def open_store(settings: Settings) -> Store:
    """Return the store that the settings name."""
    return LocalStore(settings.store_dir)
