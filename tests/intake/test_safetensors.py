"""Data files: files of the library pass, and a false header is refused with the name of the tensor."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import pytest
import torch
from safetensors.torch import save

from gradinspect.contracts.problems import ProblemError
from gradinspect.intake import check_safetensors, recognise
from gradinspect.intake import safetensors as headers


def written(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a file with this header; text is used as it is."""
    raw = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def tensor(begin: int = 0, end: int = 8, *, dtype: Any = "F32", shape: Any = (2,)) -> dict[str, Any]:
    """Make one entry of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refused(data: bytes) -> str:
    """Return the reason for which a file is refused."""
    with pytest.raises(ProblemError) as caught:
        check_safetensors(io.BytesIO(data))
    assert caught.value.code == "invalid_data"
    return caught.value.detail


def test_files_of_the_safetensors_library_pass_and_are_recognised() -> None:
    tensors = {
        "x": torch.zeros(4, 3), "y": torch.zeros(4, dtype=torch.int64), "h": torch.zeros(4, 1, dtype=torch.float16),
        "b": torch.zeros(4, 2, dtype=torch.bfloat16), "flags": torch.zeros(4, dtype=torch.bool),
        "none": torch.zeros(0, 3),
    }  # fmt: skip
    data = save(tensors, metadata={"by": "a test"})
    assert recognise(io.BytesIO(data)) == "safetensors"
    facts = check_safetensors(io.BytesIO(data))
    assert {part.name: part.shape for part in facts.tensors} == {name: tuple(t.shape) for name, t in tensors.items()}
    assert {part.name: part.dtype for part in facts.tensors}["b"] == "BF16"
    assert facts.size_bytes == len(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too short"),
        (b"PK\x03\x04" + bytes(20), "an archive or a pickle"),
        (struct.pack("<Q", 2**40) + b"{}", "the header says it has 1099511627776 bytes"),
        (written("[]"), "no JSON object"),
        (written("{"), "not strict JSON"),
        (written(b"\xff\xfe".decode("latin-1").encode("utf-16").decode("latin-1")), "not strict JSON"),
        (written('{"a": 1, "a": 2}'), "the key 'a' is given twice"),
        (written('{"a": NaN}'), "NaN is not a JSON number"),
        (written("[" * 5000), "not strict JSON"),
        (written({"a": 1}), 'tensor "a" needs dtype, shape and data_offsets'),
        (written({"a": tensor() | {"more": 1}}, bytes(8)), "and nothing else"),
        (written({"a": tensor(dtype="F33")}, bytes(8)), 'has the dtype "F33"; known are'),
        (written({"a": tensor(dtype=7)}, bytes(8)), "has the dtype 7"),
        (written({"a": tensor(shape=[-2])}, bytes(8)), "a shape that is no list"),
        (written({"a": tensor(shape=[True, 2])}, bytes(8)), "a shape that is no list"),
        (written({"a": tensor(shape="2")}, bytes(8)), "a shape that is no list"),
        (written({"a": tensor(shape=[1] * 17)}, bytes(8)), "a shape that is no list"),
        (written({"a": tensor(8, 0)}, bytes(8)), "data_offsets that are no [begin, end]"),
        (written({"a": tensor(0, 4)}, bytes(4)), "F32[2], 8 bytes, but its data_offsets hold 4"),
        (written({"a": tensor(shape=[2**40, 2**40])}, bytes(8)), "but its data_offsets hold 8"),
        (written({"a": tensor(), "b": tensor(4, 12)}, bytes(12)), '"a" and "b" overlap'),
        (written({"a": tensor(), "b": tensor()}, bytes(8)), "overlap"),
        (written({"a": tensor(), "b": tensor(12, 20)}, bytes(20)), "belong to none"),
        (written({"a": tensor()}, bytes(4)), "overlap, or the file is cut off"),
        (written({"a": tensor()}, bytes(9)), "1 bytes between"),
        (written({"": tensor()}, bytes(8)), "is empty"),
        (written({"a\x00": tensor()}, bytes(8)), "not printable"),
        (written({"x" * 300: tensor()}, bytes(8)), "longer than 256"),
    ],
)
def test_a_false_header_is_refused_with_the_tensor(data: bytes, reason: str) -> None:
    assert reason in refused(data)


def test_limits_hold_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MAX_TENSORS", 1)
    assert "holds 2 tensors; at most 1" in refused(written({"a": tensor(), "b": tensor(8, 16)}, bytes(16)))
    monkeypatch.setattr(headers, "MAX_HEADER_BYTES", 10)
    assert "at most 10 are taken" in refused(written({"a": tensor()}, bytes(8)))


def test_a_tensor_without_axes_or_elements_is_fine() -> None:
    header = {"scalar": tensor(0, 4, shape=[]), "empty": tensor(4, 4, shape=[0, 5])}
    facts = check_safetensors(io.BytesIO(written(header, bytes(4))))
    assert [part.shape for part in facts.tensors] == [(), (0, 5)]


def test_a_header_that_expands_in_memory_is_refused_unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_: bytes) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(headers, "parse_strict_json", parse)
    for metadata in ("[" + "[]," * headers.MAX_SIGNS + "[]]", "[" + "1," * headers.MAX_SIGNS + "1]"):
        assert "commas and brackets" in refused(written('{"__metadata__": ' + metadata + "}"))


def test_a_header_with_the_most_tensors_allowed_is_parsed() -> None:
    count = headers.MAX_TENSORS
    parts = {f"layers.{index}.weight": tensor(8 * index, 8 * index + 8) for index in range(count)}
    facts = check_safetensors(io.BytesIO(written({"__metadata__": {"format": "pt"}, **parts}, bytes(8 * count))))
    assert len(facts.tensors) == count
