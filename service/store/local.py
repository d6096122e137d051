"""The store in a directory of one disk."""

from __future__ import annotations

from pathlib import Path

from service.store.artifact_files import ArtifactFiles
from service.store.report_files import ReportFiles


class LocalStore:
    """Artifacts and reports in one directory that all processes share.

    Unfinished files are in `incoming` on the same disk, so that a rename makes them final.
    """

    def __init__(self, directory: Path) -> None:
        self.artifacts = ArtifactFiles(directory / "artifacts", directory / "incoming")
        self.reports = ReportFiles(directory / "reports", directory / "incoming")
