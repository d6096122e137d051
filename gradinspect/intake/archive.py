"""A zip file's structure, read from its bytes: one directory, no overlap, no surprises.

Stricter than a zip reader: what torch writes passes, and whatever two readers could understand differently is refused.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from gradinspect.contracts.problems import ProblemError

MAX_ENTRIES = 50_000  # chosen: one record per tensor, and models with more tensors exceed other limits
MAX_DIRECTORY_BYTES = 16 * 2**20
MAX_NAME = 512
MAX_INFLATED_BYTES = 64 * 2**20  # of all deflated entries together
MAX_RATIO = 200  # chosen: code deflates to about a fifth; deflate itself reaches 1032

_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64, _LOCATOR64 = b"PK\x06\x06", b"PK\x06\x07"
_STORED, _DEFLATED = 0, 8
_FULL32, _FULL16 = 0xFFFFFFFF, 0xFFFF
_WIDE = 1  # the extra field with 64-bit numbers
_DESCRIPTOR_BYTES = 24  # at most, between an entry's data and the next entry, which has 30 bytes before its name
_ALLOWED_FLAGS = 0x0808  # sizes in a descriptor behind the data; names in UTF-8


@dataclass(frozen=True, slots=True)
class Entry:
    """One file in the archive: name, offset of its bytes, and sizes before and after deflating."""

    name: str
    start: int
    packed_bytes: int
    size_bytes: int
    deflated: bool
    checksum: int


class Archive:
    """An archive whose structure was checked.

    Args:
        file: seekable; read where needed, never as a whole.

    Raises:
        ProblemError: `invalid_model`, naming the entry and what is wrong with it.

    Cost: the directory (at most 16 MiB) and 30 bytes an entry are read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = file.seek(0, os.SEEK_END)
        self.directory_offset, directory_bytes = self._directory_span()
        listed = _Directory(self._read(self.directory_offset, directory_bytes), self.count)
        self.entries: dict[str, Entry] = {}
        folded: dict[str, str] = {}
        spans: list[tuple[int, int, str]] = []
        for offset, entry in listed:
            placed = self._placed(entry, offset)
            twin = folded.setdefault(entry.name.lower(), entry.name)
            if entry.name in self.entries:
                raise refusal(f"the archive holds {_shown(entry.name)} twice")
            if twin != entry.name:
                raise refusal(
                    f"{_shown(twin)} and {_shown(entry.name)} differ only in case, and torch reads one for both"
                )
            self.entries[entry.name] = placed
            spans.append((offset, placed.start + placed.packed_bytes, entry.name))
        self._check_spans(spans, self.directory_offset)
        self.root = _common_root(list(self.entries))
        inflated = sum(entry.size_bytes for entry in self.entries.values() if entry.deflated)
        if inflated > MAX_INFLATED_BYTES:
            raise refusal(f"its deflated entries unfold to {inflated} bytes; at most {MAX_INFLATED_BYTES} are taken")

    def find(self, path: str) -> Entry | None:
        """Return the entry of a path below the archive's folder."""
        return self.entries.get(f"{self.root}/{path}")

    def paths(self) -> list[str]:
        """Return all paths below the archive's folder."""
        return [name[len(self.root) + 1 :] for name in self.entries]

    def read(self, path: str, *, limit: int) -> bytes:
        """Read one entry whole.

        Raises:
            ProblemError: it is missing, larger than `limit`, damaged, or unfolds to another size than it says.
        """
        entry = self.find(path)
        if entry is None:
            raise refusal(f"the archive holds no {path}")
        if entry.size_bytes > limit:
            raise refusal(f"{path} has {entry.size_bytes} bytes; at most {limit} are taken")
        packed = self._read(entry.start, entry.packed_bytes)
        data = _inflated(packed, entry, path) if entry.deflated else packed
        if zlib.crc32(data) != entry.checksum:
            raise refusal(f"{path} is damaged: its checksum does not match; write the file again")
        return data

    def _read(self, offset: int, count: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(count)
        if len(data) != count:
            raise refusal("the archive ends in the middle of an entry; upload the whole file")
        return data

    def _directory_span(self) -> tuple[int, int]:
        """Return the offset of the central directory; sets `count`."""
        if self.size_bytes < 22 or self._read(0, 4) not in (_LOCAL, _END):
            raise refusal("the file is no zip archive, which is what torch.jit.save writes")
        end = self.size_bytes - 22
        tail = self._read(end, 22)
        if tail[:4] != _END or tail[20:] != b"\0\0":
            raise refusal("the archive does not end with a zip directory; the file is cut off or has bytes behind it")
        disk, first_disk, here, count, size, offset = struct.unpack("<HHHHII", tail[4:20])
        if (disk, first_disk) != (0, 0) or here != count:
            raise refusal("the archive is split over several files")
        if end >= 20 and self._read(end - 20, 4) == _LOCATOR64:
            end, count, size, offset = self._directory64(end - 20, (count, size, offset))
        if offset + size != end:
            raise refusal("the zip directory is not where the archive says it is")
        if count > MAX_ENTRIES or size > MAX_DIRECTORY_BYTES:
            raise refusal(f"the archive lists {count} entries; at most {MAX_ENTRIES} are taken")
        if count == 0:
            raise refusal("the archive is empty")
        self.count = count
        return offset, size

    def _directory64(self, locator: int, short: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """Read the 64-bit form, which has to agree with the short one wherever that has a value."""
        disk, record_at, disks = struct.unpack("<IQI", self._read(locator + 4, 16))
        if disk != 0 or disks > 1 or record_at != locator - 56:
            raise refusal("the archive's 64-bit directory is not where it says it is")
        record = self._read(record_at, 56)
        length, _, _, disk, first_disk, here, count, size, offset = struct.unpack("<QHHIIQQQQ", record[4:])
        if record[:4] != _END64 or length != 44 or (disk, first_disk) != (0, 0) or here != count:
            raise refusal("the archive's 64-bit directory cannot be read")
        for long, brief, full in zip((count, size, offset), short, (_FULL16, _FULL32, _FULL32), strict=True):
            if brief not in (long, full):
                raise refusal("the archive's two directories differ")
        return record_at, count, size, offset

    def _placed(self, entry: Entry, offset: int) -> Entry:
        """Hold the entry's local header against the directory, and find its data."""
        header = self._read(offset, 30)
        flags, method, *_ = struct.unpack("<HH", header[6:10])
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        name = self._read(offset + 30, name_length)
        if header[:4] != _LOCAL or name != entry.name.encode():
            raise refusal(f"the directory says {_shown(entry.name)} where the archive holds something else")
        if flags & ~_ALLOWED_FLAGS or method != (_DEFLATED if entry.deflated else _STORED):
            raise refusal(f"{_shown(entry.name)} says two things about how it is stored")
        packed, size = struct.unpack("<II", header[18:26])
        if not flags & 0x0008:
            for said, real in ((packed, entry.packed_bytes), (size, entry.size_bytes)):
                if said not in (real, _FULL32):
                    raise refusal(f"{_shown(entry.name)} says two things about its size")
        start = offset + 30 + name_length + extra_length
        return Entry(entry.name, start, entry.packed_bytes, entry.size_bytes, entry.deflated, entry.checksum)

    def _check_spans(self, spans: list[tuple[int, int, str]], directory: int) -> None:
        spans.sort()
        if spans[0][0] != 0:
            raise refusal("the archive starts with bytes that belong to no entry")
        for (_, end, name), (start, _, following) in pairwise([*spans, (directory, directory, "the zip directory")]):
            if start < end:
                raise refusal(f"{_shown(name)} and {_shown(following)} overlap")
            if start - end > _DESCRIPTOR_BYTES:
                raise refusal(f"{start - end} bytes behind {_shown(name)} belong to no entry")


class _Directory:
    """Yield the central directory: offset of each local header, and the entry without its start."""

    def __init__(self, data: bytes, count: int) -> None:
        self._data, self._count = data, count

    def __iter__(self) -> _Directory:
        self._at, self._left = 0, self._count
        return self

    def __next__(self) -> tuple[int, Entry]:
        if self._left == 0:
            if self._at != len(self._data):
                raise refusal("the zip directory holds more than its entries")
            raise StopIteration
        self._left -= 1
        data, at = self._data, self._at
        if data[at : at + 4] != _CENTRAL or len(data) < at + 46:
            raise refusal("the zip directory is damaged")
        flags, method, checksum, packed, size = struct.unpack("<HH4xIII", data[at + 8 : at + 28])
        name_length, extra_length, comment_length, disk = struct.unpack("<HHHH", data[at + 28 : at + 36])
        offset = struct.unpack("<I", data[at + 42 : at + 46])[0]
        extra_at = at + 46 + name_length
        name = _name(data[at + 46 : extra_at])
        self._at = extra_at + extra_length + comment_length
        if flags & 0x2041:
            raise refusal(f"{_shown(name)} is encrypted")
        if flags & ~_ALLOWED_FLAGS or method not in (_STORED, _DEFLATED) or disk not in (0, _FULL16):
            raise refusal(f"{_shown(name)} is stored in a way that torch does not write")
        size, packed, offset = _wide(name, data[extra_at : extra_at + extra_length], size, packed, offset)
        entry = Entry(name, 0, packed, size, method == _DEFLATED, checksum)
        if not entry.deflated and packed != size:
            raise refusal(f"{_shown(name)} says two things about its size")
        if entry.deflated and size > 4096 and size > MAX_RATIO * packed:
            raise refusal(f"{_shown(name)} unfolds to {size} bytes from {packed}; at most {MAX_RATIO} times are taken")
        return offset, entry


def _wide(name: str, extra: bytes, *numbers: int) -> list[int]:
    """Read the 64-bit numbers that an entry has where the short ones are full; readers differ where it has more."""
    at, wide = 0, None
    while at < len(extra):
        kind, length = struct.unpack("<HH", extra[at : at + 4]) if at + 4 <= len(extra) else (_WIDE, 0)
        field = extra[at + 4 : at + 4 + length]
        if len(field) < length or (kind == _WIDE and (wide is not None or length == 0 or length % 8)):
            raise refusal(f"the 64-bit numbers of {_shown(name)} can be read in two ways")
        wide = field if kind == _WIDE else wide
        at += 4 + length
    left = iter(struct.unpack(f"<{len(wide) // 8}Q", wide) if wide is not None else ())
    sizes = [next(left, None) if number == _FULL32 else number for number in numbers]
    if None in sizes:
        raise refusal(f"{_shown(name)} has no 64-bit number where its short one says that there is one")
    return [number for number in sizes if number is not None]


def _name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise refusal("an entry's name is not UTF-8") from None
    parts = name.split("/")
    if not name or len(name) > MAX_NAME or not name.isprintable() or "\\" in name:
        raise refusal(f"an entry has the name {_shown(name)}, which no model has")
    if any(part in ("", ".", "..") for part in parts):
        raise refusal(f"the entry {_shown(name)} points outside the archive's own folder")
    return name


def _common_root(names: list[str]) -> str:
    roots = {name.split("/")[0] for name in names}
    if len(roots) > 1 or any("/" not in name for name in names):
        raise refusal("the archive's entries do not share one folder, as torch writes them")
    return roots.pop()


def _inflated(packed: bytes, entry: Entry, path: str) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unpacker.decompress(packed, entry.size_bytes + 1)
    except zlib.error:
        raise refusal(f"{path} is damaged: it does not unfold; write the file again") from None
    if len(data) != entry.size_bytes or not unpacker.eof or unpacker.unused_data:
        raise refusal(f"{path} unfolds to another size than the archive says")
    return data


def _shown(name: str) -> str:
    return ascii(name[:80])


def refusal(detail: str) -> ProblemError:
    """Make the error of a file that is no model."""
    return ProblemError("invalid_model", detail)
