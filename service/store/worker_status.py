"""What workers say of themselves for /readyz: one small file each, in the store that they share with the API.

A file is written anew every few seconds and counts as long as it is fresh, so a worker that was killed is forgotten by
itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from time import time
from typing import Literal

from gradinspect.contracts.document import Count, Document, Name, Text, from_json
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.wire.messages import Limits
from service.settings import Queue, Settings

WRITE_SECONDS = 5.0
FRESH_SECONDS = 20.0  # chosen: four writes
STALE_SECONDS = 3600.0
Confinement = Literal["none", "limits", "full"]
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}\.json")
_WEAKEST_FIRST: tuple[Confinement, ...] = ("none", "limits", "full")


class OneWorker(Document):
    """One worker process."""

    name: Name
    queues: tuple[Queue, ...]
    slots: Count
    torch_version: Name
    confinement: Confinement
    reason: Text = ""
    limits: Limits


class WorkerStatus(Document):
    """All workers that are alive.

    `confinement` is the weakest level of any of them: uploads are taken only where it is `full`, because each of them
    may get the next one. `reason` says why it is not full.
    """

    workers: tuple[OneWorker, ...]
    confinement: Confinement
    reason: Text
    torch_versions: tuple[Name, ...]

    @property
    def takes_uploads(self) -> bool:
        """Whether uploaded models and tensors can be run."""
        return self.confinement == "full"


def write_status(settings: Settings, worker: OneWorker) -> None:
    """Say that this worker is alive. The file appears whole."""
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _file_name(worker.name)
    unfinished = path.with_suffix(".new")
    unfinished.write_text(worker.model_dump_json())
    unfinished.replace(path)


def remove_status(settings: Settings, name: str) -> None:
    """Say that this worker is gone, and forget those that were killed long ago."""
    folder = _folder(settings)
    (folder / _file_name(name)).unlink(missing_ok=True)
    for path in folder.glob("*"):
        if (_age_seconds(path) or 0) > STALE_SECONDS:
            path.unlink(missing_ok=True)


def read_status(settings: Settings) -> WorkerStatus | None:
    """What the living workers say; None when there is none."""
    found = [
        worker
        for path in sorted(_folder(settings).glob("*.json"))
        if _NAME.fullmatch(path.name) and (worker := _read(path)) is not None
    ]
    if not found:
        return None
    weakest = min(found, key=lambda worker: _WEAKEST_FIRST.index(worker.confinement))
    return WorkerStatus(
        workers=tuple(found),
        confinement=weakest.confinement,
        reason=weakest.reason,
        torch_versions=tuple(sorted({worker.torch_version for worker in found})),
    )


def _read(path: Path) -> OneWorker | None:
    try:
        age = _age_seconds(path)
        return from_json(OneWorker, path.read_bytes()) if age is not None and age <= FRESH_SECONDS else None
    except (OSError, ProblemError):
        return None  # removed just now, or written by a version that says other things


def _age_seconds(path: Path) -> float | None:
    try:
        return time() - path.stat().st_mtime
    except OSError:
        return None


def _folder(settings: Settings) -> Path:
    return settings.store_dir / "workers"


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:180] + ".json"
