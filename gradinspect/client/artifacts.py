"""Uploaded bytes, named by their SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from gradinspect.client.calls import Calls
from gradinspect.client.errors import NotFound
from gradinspect.contracts.wire.resources import ArtifactResource

PIECE_BYTES = 2**20


class _FileBody:
    """The body of an upload; each attempt reads the file again from the beginning."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        return _pieces(self._path)


class Artifacts:
    """`client.artifacts`: upload, get, download, delete."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def upload(self, file: str | Path | bytes) -> ArtifactResource:
        """Upload a .pt2, TorchScript or safetensors file, or its bytes, unless the service has it already.

        Raises:
            OSError: the file cannot be read.
            GradinspectError: `invalid_model` or `invalid_data` when the service refuses the file.

        Cost: one read of the file for its digest, and one for the upload; memory for one piece.
        """
        digest, size = _digest(file)
        try:
            return self.get(digest)
        except NotFound:
            content = file if isinstance(file, bytes) else _FileBody(Path(file))
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            return self._calls.read(
                ArtifactResource, "PUT", f"/v1/artifacts/{digest}", content=content, headers=headers
            )

    def get(self, artifact_id: str) -> ArtifactResource:
        """Return what the service knows about an artifact."""
        return self._calls.read(ArtifactResource, "GET", f"/v1/artifacts/{artifact_id}")

    def exists(self, artifact_id: str) -> bool:
        """Return whether the service has an artifact."""
        try:
            self._calls.send("HEAD", f"/v1/artifacts/{artifact_id}")
        except NotFound:
            return False
        return True

    def download(self, artifact_id: str) -> bytes:
        """Return the bytes of an artifact."""
        headers = {"Accept": "application/octet-stream"}
        return self._calls.send("GET", f"/v1/artifacts/{artifact_id}", headers=headers).content

    def delete(self, artifact_id: str) -> None:
        """Delete an artifact that nothing uses.

        Raises:
            Conflict: a model or an inspection uses it.
        """
        self._calls.send("DELETE", f"/v1/artifacts/{artifact_id}")


def _digest(file: str | Path | bytes) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for piece in [file] if isinstance(file, bytes) else _pieces(Path(file)):
        digest.update(piece)
        size += len(piece)
    return f"sha256:{digest.hexdigest()}", size


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
