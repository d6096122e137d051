"""Zip archives that two readers could interpret differently, or that expand without limit."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import pytest
import torch

import tests.support.networks.torchscript_files as files
from gradinspect.contracts.problems import ProblemError
from gradinspect.intake import archive as zip_structure
from gradinspect.intake.archive import Archive


def opened(data: bytes) -> Archive:
    return Archive(io.BytesIO(data))


def refused(data: bytes) -> str:
    """Return the reason for which an archive is refused."""
    with pytest.raises(ProblemError) as caught:
        opened(data)
    assert caught.value.code == "invalid_model"
    return caught.value.detail


GOOD = [("net/data.pkl", b"first"), ("net/version", b"3\n")]


def test_an_archive_is_read_by_path() -> None:
    archive = opened(files.raw_zip(GOOD))
    assert archive.paths() == ["data.pkl", "version"]
    assert archive.read("data.pkl", limit=100) == b"first"


def test_a_record_beyond_its_limit_is_not_read() -> None:
    with pytest.raises(ProblemError, match="has 5 bytes; at most 4"):
        opened(files.raw_zip(GOOD)).read("data.pkl", limit=4)


def test_a_missing_record_is_named() -> None:
    with pytest.raises(ProblemError, match=r"holds no constants\.pkl"):
        opened(files.raw_zip(GOOD)).read("constants.pkl", limit=4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (files.raw_zip([*GOOD, ("net/version", b"4\n")]), "holds 'net/version' twice"),
        (files.raw_zip([*GOOD, ("net/VERSION", b"4\n")]), "differ only in case"),
        (files.raw_zip([("net/../../etc/passwd", b"x")]), "points outside"),
        (files.raw_zip([("/net/data.pkl", b"x")]), "points outside"),
        (files.raw_zip([("net//data.pkl", b"x")]), "points outside"),
        (files.raw_zip([("net\\data.pkl", b"x")]), "which no model has"),
        (files.raw_zip([("net/\x1b[31m", b"x")]), "which no model has"),
        (files.raw_zip([("net/" + "x" * 600, b"x")]), "which no model has"),
        (files.raw_zip([("net/a", b"x"), ("other/b", b"x")]), "do not share one folder"),
        (files.raw_zip([("data.pkl", b"x")]), "do not share one folder"),
        (files.raw_zip(GOOD, flags=1), "is encrypted"),
        (files.raw_zip(GOOD, flags=0x20), "in a way that torch does not write"),
        (files.raw_zip([("net/a", b"xxxx"), ("net/b", b"yyyy")], claimed_size=60), "overlap"),
        (files.raw_zip(GOOD, prefix=b"PK\x03\x04MZ"), "starts with bytes that belong to no entry"),
        (files.raw_zip(GOOD, prefix=b"#!/bin/sh\n"), "no zip archive"),
        (files.raw_zip(GOOD) + b"more", "does not end with a zip directory"),
        (files.raw_zip([]), "the archive is empty"),
    ],
)
def test_a_structure_that_torch_does_not_write_is_refused(data: bytes, reason: str) -> None:
    assert reason in refused(data)


def replaced_at(data: bytes, at: int, piece: bytes) -> bytes:
    return data[:at] + piece + data[at + len(piece) :]


def test_the_directory_and_the_entries_must_agree() -> None:
    good = files.raw_zip(GOOD)
    assert "something else" in refused(replaced_at(good, 30, b"net/DATA"))
    assert "how it is stored" in refused(replaced_at(good, 8, struct.pack("<H", 8)))
    assert "about its size" in refused(replaced_at(good, 18, struct.pack("<I", 4)))
    assert "split over several" in refused(replaced_at(good, len(good) - 14, struct.pack("<H", 1)))
    assert "not where the archive says" in refused(replaced_at(good, len(good) - 6, struct.pack("<I", 3)))


def field(numbers: bytes) -> bytes:
    """Return an extra field with 64-bit numbers."""
    return struct.pack("<HH", 1, len(numbers)) + numbers


@pytest.mark.parametrize(
    "wide",
    [
        lambda listed, hidden: field(struct.pack("<QB", hidden, 0)) + field(struct.pack("<Q", listed)),
        lambda listed, hidden: field(struct.pack("<Q", listed)) + field(struct.pack("<Q", hidden)),
        lambda listed, _: field(struct.pack("<QB", listed, 0)),
        lambda listed, _: field(struct.pack("<Q", listed)) + b"\0",
        lambda listed, _: field(struct.pack("<Q", listed)) + struct.pack("<HH", 9, 9),
        lambda *_: b"",
    ],
    ids=["a longer one first", "two of them", "half a number", "a rest", "beyond its end", "no number"],
)
def test_an_entry_with_an_ambiguous_offset_is_refused(wide: Callable[[int, int], bytes]) -> None:
    assert "64-bit" in refused(files.raw_zip(GOOD, hidden={"net/data.pkl": b"other"}, wide=wide))


def test_bytes_that_no_directory_lists_are_refused() -> None:
    data = files.raw_zip(
        GOOD, hidden={"net/data.pkl": b"other"}, wide=lambda listed, _: field(struct.pack("<Q", listed))
    )
    assert "47 bytes behind 'net/data.pkl' belong to no entry" in refused(data)


def test_torch_reads_the_first_of_two_64_bit_fields() -> None:
    # Otherwise the refusals above would prove nothing: the code that torch runs is not the code that is listed.
    records = files.records_of(files.program("return torch.mul(x, 2)"))
    code = "net/code/__torch__.py"
    data = files.raw_zip(
        [(f"net/{name}", content) for name, content in records.items()],
        hidden={code: records["code/__torch__.py"].replace(b"mul(x, 2)", b"mul(x, 7)")},
        wide=lambda listed, hidden: field(struct.pack("<QB", hidden, 0)) + field(struct.pack("<Q", listed)),
    )
    assert files.loaded(data)(torch.ones(1)).item() == 7
    refused(data)


def test_more_entries_than_the_limit_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_structure, "MAX_ENTRIES", 1)
    assert "lists 2 entries; at most 1" in refused(files.raw_zip(GOOD))


def test_a_damaged_record_is_refused_when_it_is_read() -> None:
    good = files.raw_zip(GOOD)
    archive = opened(good.replace(b"first", b"First"))
    with pytest.raises(ProblemError, match="checksum"):
        archive.read("data.pkl", limit=100)


def bomb(size: int, count: int = 1) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        for index in range(count):
            written.writestr(zipfile.ZipInfo(f"net/code/{index}.py"), bytes(size), compress_type=zipfile.ZIP_DEFLATED)
    return file.getvalue()


def test_a_zip_bomb_is_refused_by_its_ratio() -> None:
    assert "at most 200 times" in refused(bomb(10**7))


def test_many_small_bombs_are_refused_by_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_structure, "MAX_INFLATED_BYTES", 10_000)
    assert "unfold to 12000 bytes" in refused(bomb(4000, 3))


def test_an_entry_larger_than_declared_is_refused_without_decompressing_it() -> None:
    data = bytearray(bomb(4000))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 10)
    data[22:26] = struct.pack("<I", 10)
    with pytest.raises(ProblemError, match="another size"):
        opened(bytes(data)).read("code/0.py", limit=100)


def test_files_of_torch_have_a_64_bit_directory_that_agrees() -> None:
    data = files.scripted(files.mlp())
    assert b"PK\x06\x06" in data
    opened(data)
    at = data.index(b"PK\x06\x06") + 24
    assert refused(replaced_at(data, at, struct.pack("<QQ", 7, 7)))
