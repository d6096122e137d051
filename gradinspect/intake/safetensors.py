"""A safetensors file's header, read from its bytes: every tensor where it says, and nothing else.

The library is asked about files that pass here only: it keeps the last of two equal keys, and names no tensor.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, BinaryIO

from gradinspect.contracts.document import parse_strict_json
from gradinspect.contracts.problems import ProblemError

MAX_HEADER_BYTES = 16 * 2**20  # the library takes 100 MB; 100 bytes a tensor are usual
MAX_TENSORS = 50_000
MAX_SIGNS = 30 * MAX_TENSORS  # of JSON, before it is parsed: a tensor takes about ten, and each may become an object
MAX_NAME = 256
MAX_AXES = 16
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
    "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One tensor: its name, its dtype in safetensors' words, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SafetensorsFacts:
    """The tensors of a file, and its size."""

    tensors: tuple[TensorFacts, ...]
    size_bytes: int


def check_safetensors(file: BinaryIO) -> SafetensorsFacts:
    """Check an uploaded file before the library reads it.

    Args:
        file: seekable, at any position.

    Raises:
        ProblemError: `invalid_data`, naming the tensor.

    Cost: the header is read, at most 16 MiB; tensors are not.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(8)
    if len(start) < 8:
        raise _refusal("the file is too short to be safetensors")
    length = struct.unpack("<Q", start)[0]
    if length > size - 8:
        if start[:2] in (b"PK", b"\x80\x02"):
            raise _refusal(
                "the file is an archive or a pickle, not safetensors; write it with safetensors.torch.save_file"
            )
        raise _refusal(
            f"the header says it has {length} bytes, but the file has {size}; it is cut off or no safetensors"
        )
    if length > MAX_HEADER_BYTES:
        raise _refusal(f"the header has {length} bytes; at most {MAX_HEADER_BYTES} are taken")
    header = _header(file.read(length))
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise _refusal(f"the file holds {len(header)} tensors; at most {MAX_TENSORS} are taken")
    spans: list[tuple[int, int, str]] = []
    tensors: list[TensorFacts] = []
    for name, described in header.items():
        facts, begin, end = _tensor(name, described)
        tensors.append(facts)
        spans.append((begin, end, name))
    _check_spans(spans, size - 8 - length)
    return SafetensorsFacts(tuple(tensors), size)


def _header(raw: bytes) -> dict[str, Any]:  # Any: JSON, checked tensor by tensor
    signs = sum(raw.count(sign) for sign in (b",", b"[", b"{"))
    if signs > MAX_SIGNS:
        raise _refusal(f"the header holds {signs} commas and brackets; at most {MAX_SIGNS} are taken")
    try:
        header = parse_strict_json(raw)
    except ProblemError as problem:
        raise _refusal(f"the header is not strict JSON: {problem.detail}") from None
    if not isinstance(header, dict):
        raise _refusal("the header is no JSON object")
    return header


def _tensor(name: str, described: object) -> tuple[TensorFacts, int, int]:
    shown = json.dumps(name[:80])
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise _refusal(f"the name {shown} is empty, longer than {MAX_NAME} characters, or not printable")
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise _refusal(f"tensor {shown} needs dtype, shape and data_offsets, and nothing else")
    dtype = described["dtype"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _refusal(f"tensor {shown} has the dtype {json.dumps(dtype)[:40]}; known are {', '.join(ITEM_BYTES)}")
    shape, offsets = _counts(described["shape"]), _counts(described["data_offsets"])
    if shape is None or len(shape) > MAX_AXES:
        raise _refusal(f"tensor {shown} has a shape that is no list of at most {MAX_AXES} sizes")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _refusal(f"tensor {shown} has data_offsets that are no [begin, end]")
    begin, end = offsets
    expected = prod(shape) * ITEM_BYTES[dtype]
    if end - begin != expected:
        raise _refusal(
            f"tensor {shown} is {dtype}{list(shape)}, {expected} bytes, but its data_offsets hold {end - begin}"
        )
    return TensorFacts(name, dtype, shape), begin, end


def _counts(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    counts = [item for item in value if isinstance(item, int) and not isinstance(item, bool) and item >= 0]
    return tuple(counts) if len(counts) == len(value) else None


def _check_spans(spans: list[tuple[int, int, str]], size: int) -> None:
    """Tensors have to fill the file without a gap or an overlap."""
    spans.sort()
    bounds = [(0, 0, "the header"), *spans, (size, size, "the end of the file")]
    for (_, end, name), (begin, _, following) in pairwise(bounds):
        if begin < end:
            raise _refusal(f"{json.dumps(name[:80])} and {json.dumps(following[:80])} overlap, or the file is cut off")
        if begin > end:
            raise _refusal(
                f"{begin - end} bytes between {json.dumps(name[:80])} and {json.dumps(following[:80])} belong to none"
            )


def _refusal(detail: str) -> ProblemError:
    return ProblemError("invalid_data", detail)
