"""Whole reports on disk: compressed JSON, one file an attempt that ended well."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import Report
from service.store.durable_files import new_file, older_than, put_in_place, remove, write_all

MAX_REPORT_BYTES = 256 * 2**20  # chosen: four times the largest result that a child may send by default
_KEY = re.compile(r"insp_[0-9a-f-]{34}([0-9a-f]{2})\.\d{1,9}")
_SUFFIX = ".json.gz"


def written(report: Report) -> bytes:
    """A report as JSON. A section that was not asked for is absent rather than null."""
    absent = {name for name in Report.model_fields if name != "inspection" and getattr(report, name) is None}
    return report.model_dump_json(exclude=absent).encode()


class ReportFiles:
    """`<directory>/<ab>/<inspection>.<attempt>.json.gz`; `ab` ends the inspection's id, where it is random."""

    def __init__(self, directory: Path, incoming: Path) -> None:
        self._directory = directory
        self._incoming = incoming

    def put(self, report: Report, *, inspection_id: str, attempt: int) -> str:
        """Keep a whole report; returns its key, which goes into the inspection's row.

        Raises:
            ProblemError: `disk_full`.
        """
        key = f"{inspection_id}.{attempt}"
        packed = gzip.compress(written(report), compresslevel=1, mtime=0)
        with new_file(self._incoming) as (path, file):
            write_all(file, packed)
            os.fsync(file.fileno())
            put_in_place(path, self._place(key))
        return key

    def read(self, key: str) -> bytes:
        """The JSON of a whole report, as it was written.

        Raises:
            ProblemError: `not_found`.
        """
        try:
            packed = self._place(key).read_bytes()
        except FileNotFoundError:
            raise ProblemError("not_found", f"the report {key} is not in the store") from None
        inflate = zlib.decompressobj(wbits=31)  # gzip with its checksum
        text = inflate.decompress(packed, MAX_REPORT_BYTES)
        if not inflate.eof:
            raise ValueError(f"the stored report {key} is cut off or larger than {MAX_REPORT_BYTES} bytes")
        return text

    def get(self, key: str) -> Report:
        """A whole report. Problems as for `read`."""
        return Report.model_validate_json(self.read(key))

    def delete(self, key: str) -> bool:
        """Remove a report; False when there was none."""
        return remove(self._place(key))

    def listed(self, *, older_than_seconds: float) -> Iterator[str]:
        """The key of every report that has been kept so long."""
        for path in older_than(self._directory.glob(f"*/*{_SUFFIX}"), older_than_seconds):
            yield path.name.removesuffix(_SUFFIX)

    def _place(self, key: str) -> Path:
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"{key!r} is not the key of a report")
        return self._directory / match[1] / f"{key}{_SUFFIX}"
