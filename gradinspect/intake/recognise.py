"""What kind of file is this? Told from its first bytes."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Literal

Kind = Literal["torchscript", "safetensors", "unknown"]
SNIFFED_BYTES = 512


def recognise(file: BinaryIO) -> Kind:
    """Name what a file claims to be by its first bytes; whether it is that, its check says.

    Every zip archive counts as TorchScript, so that .pt2 files and pickles in an archive are refused with a reason.

    Args:
        file: seekable, at any position.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(SNIFFED_BYTES)
    if head.startswith(b"PK"):
        return "torchscript"
    return "safetensors" if looks_like_safetensors(head, size) else "unknown"


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Whether a file starts with a header's length and its opening brace."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= size - 8


def advice(head: bytes) -> str | None:
    """Say what a file is instead of an archive, and what to do; None where it may be one."""
    if head.startswith(b"PK"):
        return None
    if not head:
        return "the file is empty"
    if head[:1] == b"\x80" or head.startswith(b"(dp"):
        return (
            "the file is a pickle (an old torch.save), which can run any code when it is loaded; upload "
            "torch.jit.script(model) saved with torch.jit.save, or a spec with its weights as safetensors"
        )
    if head[8:9] == b"{":
        return (
            "the file looks like safetensors, which holds tensors and no model; register a spec and give it as weights"
        )
    if head.startswith(b"\x89HDF"):
        return "the file is HDF5 (Keras); only PyTorch models can be inspected: upload TorchScript or send a spec"
    if head.lstrip()[:1] in (b"{", b"<"):
        return "the file is text; upload the file that torch.jit.save wrote, or send a spec as JSON"
    return "the file is no zip archive, which is what torch.jit.save writes; ONNX and other formats are not taken"
