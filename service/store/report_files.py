"""Whole reports on disk: compressed JSON, one file for each attempt that succeeded."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import Report
from service.store.durable_files import new_file, older_than, remove, rename_durably, write_all

MAX_REPORT_BYTES = 256 * 2**20  # chosen: four times the largest result that a child may send by default
_KEY = re.compile(r"insp_[0-9a-f-]{34}([0-9a-f]{2})\.\d{1,9}")
_SUFFIX = ".json.gz"


def report_json(report: Report) -> bytes:
    """Write a report as JSON. A section that was not requested is absent rather than null."""
    absent = {name for name in Report.model_fields if name != "inspection" and getattr(report, name) is None}
    return report.model_dump_json(exclude=absent).encode()


class ReportFiles:
    """Files `<directory>/<ab>/<inspection>.<attempt>.json.gz`, where `ab` is the random end of the inspection's id."""

    def __init__(self, directory: Path, incoming: Path) -> None:
        self._directory = directory
        self._incoming = incoming

    def put(self, report: Report, *, inspection_id: str, attempt: int) -> str:
        """Write a report durably; return its key."""
        key = f"{inspection_id}.{attempt}"
        packed = gzip.compress(report_json(report), compresslevel=1, mtime=0)
        with new_file(self._incoming) as (path, file):
            write_all(file, packed)
            os.fsync(file.fileno())
            rename_durably(path, self._path_of(key))
        return key

    def read(self, key: str) -> bytes:
        """Return the JSON of a report as it was written."""
        try:
            packed = self._path_of(key).read_bytes()
        except FileNotFoundError:
            raise ProblemError("not_found", f"the report {key} is not in the store") from None
        inflate = zlib.decompressobj(wbits=31)  # gzip with its checksum
        text = inflate.decompress(packed, MAX_REPORT_BYTES)
        if not inflate.eof:
            raise ValueError(f"the stored report {key} is cut off or larger than {MAX_REPORT_BYTES} bytes")
        return text

    def get(self, key: str) -> Report:
        """Return a report."""
        return Report.model_validate_json(self.read(key))

    def delete(self, key: str) -> bool:
        """Remove a report; return whether it existed."""
        return remove(self._path_of(key))

    def listed(self, *, older_than_seconds: float) -> Iterator[str]:
        """Yield the key of every report written at least `older_than_seconds` ago."""
        for path in older_than(self._directory.glob(f"*/*{_SUFFIX}"), older_than_seconds):
            yield path.name.removesuffix(_SUFFIX)

    def _path_of(self, key: str) -> Path:
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"{key!r} is not the key of a report")
        return self._directory / match[1] / f"{key}{_SUFFIX}"
