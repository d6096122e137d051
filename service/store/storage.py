"""The store: everything the service keeps in files rather than rows."""

from __future__ import annotations

from pathlib import Path

from service.store.artifact_files import ArtifactFiles
from service.store.report_files import ReportFiles


class Store:
    """One directory on one disk, which processes share: uploaded bytes, and whole reports.

    `settings.store_dir` is where it is. Unfinished files lie in `incoming`, on the same disk, so that a rename is all
    that makes them final.
    """

    def __init__(self, directory: Path) -> None:
        self.artifacts = ArtifactFiles(directory / "artifacts", directory / "incoming")
        self.reports = ReportFiles(directory / "reports", directory / "incoming")
