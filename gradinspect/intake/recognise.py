"""The kinds of file that are taken: recognised by their first bytes, then checked by the reader of the kind."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.sources import FILE_KINDS, ArtifactKind
from gradinspect.intake.advice import SNIFFED_BYTES, advice
from gradinspect.intake.archive import Archive, refusal
from gradinspect.intake.exported import check_exported, is_exported
from gradinspect.intake.safetensors import check_safetensors
from gradinspect.intake.torchscript import check_torchscript

CHECKS: dict[str, Callable[[BinaryIO], object]] = {
    "torchscript": check_torchscript, "exported": check_exported, "safetensors": check_safetensors,
}  # fmt: skip


def check_upload(file: BinaryIO, *, must_be_model: bool) -> ArtifactKind:
    """Recognise a file and check that it is what it claims to be.

    Args:
        file: seekable, at any position.
        must_be_model: refuse what is no model, with advice.

    Raises:
        ProblemError: `invalid_model`, `unsupported_operator` or `invalid_data`.
    """
    kind = recognise(file)
    if must_be_model and kind not in FILE_KINDS:
        file.seek(0)
        raise refusal(advice(file.read(SNIFFED_BYTES)) or "the file is no model")
    if kind in CHECKS:
        CHECKS[kind](file)
    return kind


def recognise(file: BinaryIO) -> ArtifactKind:
    """Name what a file claims to be by its first bytes, and an archive by the names of its entries.

    Every other zip archive counts as TorchScript, so that pickles in an archive are refused with a reason.

    Args:
        file: seekable, at any position.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(SNIFFED_BYTES)
    if head.startswith(b"PK"):
        return "exported" if _is_exported(file) else "torchscript"
    return "safetensors" if looks_like_safetensors(head, size) else "unknown"


def _is_exported(file: BinaryIO) -> bool:
    try:
        return is_exported(Archive(file).paths())
    except ProblemError:  # the check that follows says what is wrong
        return False


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Check whether a file starts with a header's length and its opening brace."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= size - 8
