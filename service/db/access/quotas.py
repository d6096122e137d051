"""How much a tenant stores."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gradinspect.contracts.problems import ProblemError
from service.db.tables import ArtifactRecord

RETRY_SECONDS = 60  # chosen: as long as it takes to delete something


def stored_bytes(session: Session, *, tenant: str) -> int:
    """Return the bytes of a tenant's uploads."""
    total = func.coalesce(func.sum(ArtifactRecord.size_bytes), 0)
    return int(session.scalar(select(total).where(ArtifactRecord.tenant_id == tenant)) or 0)


def refuse_overflow(session: Session, *, tenant: str, added_bytes: int, limit: int) -> None:
    """Refuse an upload that the tenant has no room for. Concurrent uploads may exceed the limit by their number.

    Raises:
        ProblemError: `quota_exceeded`.
    """
    stored = stored_bytes(session, tenant=tenant)
    if stored + added_bytes > limit:
        detail = f"{stored} of {limit} bytes are stored, and {added_bytes} more would exceed the quota"
        raise ProblemError("quota_exceeded", detail, retry_after=RETRY_SECONDS)
