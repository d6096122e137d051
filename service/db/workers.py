"""Rows of living workers: each updates its row every few seconds, and a row is valid while it is recent.

A killed worker needs no clean-up: its row expires by the database's clock.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from gradinspect.contracts.document import Count, Document, Name, Text, from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.wire.messages import Limits
from service.db import DEFAULT_TENANT, clock
from service.db.statements import change
from service.db.tables import WorkerRecord
from service.settings import Queue

BEAT_SECONDS = 5.0
FRESH_SECONDS = 20.0  # chosen: four beats
FORGOTTEN_SECONDS = 3600.0
Confinement = Literal["none", "limits", "full"]
_WEAKEST_FIRST: tuple[Confinement, ...] = ("none", "limits", "full")
# Workers serve all tenants; the column exists because every table has it.
_ALL_TENANTS = DEFAULT_TENANT


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
    """All living workers.

    `confinement` is the weakest level of any of them, because each may get the next upload; `reason` says why it is not
    `full`.
    """

    workers: tuple[OneWorker, ...]
    confinement: Confinement
    reason: Text
    torch_versions: tuple[Name, ...]

    @property
    def takes_uploads(self) -> bool:
        """Whether uploaded models and tensors can be run."""
        return self.confinement == "full"


def beat(session: Session, worker: OneWorker) -> None:
    """Record that a worker is alive."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    document = worker.model_dump(mode="json")
    row = dialect.insert(WorkerRecord).values(
        name=worker.name, tenant_id=_ALL_TENANTS, document=document, seen_at=clock.now()
    )
    session.execute(
        row.on_conflict_do_update(
            index_elements=["name", "tenant_id"], set_={"document": row.excluded.document, "seen_at": clock.now()}
        )
    )


def remove(session: Session, name: str) -> None:
    """Remove a worker that has ended."""
    change(session, delete(WorkerRecord).where(WorkerRecord.name == name))


def forget_lost(session: Session) -> int:
    """Remove workers that were killed long ago; return how many."""
    return change(session, delete(WorkerRecord).where(WorkerRecord.seen_at < clock.now_plus(-FORGOTTEN_SECONDS)))


def living(session: Session) -> WorkerStatus | None:
    """Return what the living workers wrote; None when no worker is alive."""
    fresh = WorkerRecord.seen_at >= clock.now_plus(-FRESH_SECONDS)
    documents = session.scalars(select(WorkerRecord.document).where(fresh).order_by(WorkerRecord.name)).all()
    workers = tuple(worker for document in documents if (worker := _read(document)) is not None)
    if not workers:
        return None
    weakest = min(workers, key=lambda worker: _WEAKEST_FIRST.index(worker.confinement))
    return WorkerStatus(
        workers=workers,
        confinement=weakest.confinement,
        reason=weakest.reason,
        torch_versions=tuple(sorted({worker.torch_version for worker in workers})),
    )


def _read(document: object) -> OneWorker | None:
    try:
        return from_python(OneWorker, document)
    except ProblemError:
        return None  # written by a release with other fields
