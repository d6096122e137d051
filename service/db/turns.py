"""Whose turn it is: the next inspection of a queue, so that one tenant's many do not hold up another's few.

A message wakes a worker for one inspection of a queue, and this module chooses which: of the tenant with the fewest
running inspections, then of the one that was served longest ago, the one that has waited longest.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.db import clock, leases
from service.db.leases import Claim
from service.db.statements import change
from service.db.tables import InspectionRecord

RACES = 8  # chosen: each lost race means that another worker claims at the same moment

LIMITED_SECONDS = (
    2.0  # chosen: a tenant at its limit gets a slot this long, and a maintainer's round, after one is free
)


def claim_next(
    session: Session,
    inspection_id: str,
    *,
    queues: Sequence[str],
    owner: str,
    lease_seconds: float,
    max_running: int | None = None,
) -> Claim | None:
    """Claim the inspection whose turn it is; None when none may be claimed now: drop the message.

    Args:
        session: a writing transaction.
        inspection_id: as for `next_inspection`, like `queues` and `max_running`.
        owner: name of the worker, for operators.
        lease_seconds: until the first heartbeat is due.
    """
    for _ in range(RACES):
        chosen = next_inspection(session, inspection_id, queues=queues, max_running=max_running)
        if chosen is None:
            return None
        claim = leases.claim(session, chosen, owner=owner, lease_seconds=lease_seconds)
        if claim is not None:
            return claim
    return None


def next_inspection(
    session: Session, inspection_id: str, *, queues: Sequence[str], max_running: int | None = None
) -> str | None:
    """Return the id of the inspection to claim next; None when none may be claimed now.

    Args:
        session: to read with.
        inspection_id: named by the message; its queue is served.
        queues: served when that inspection has been deleted.
        max_running: inspections of one tenant that may run at once.

    Cost: three statements for each tenant with queued inspections, however many it has.
    """
    own = session.scalar(select(InspectionRecord.queue).where(InspectionRecord.id == inspection_id))
    served = list(queues) if own is None else [own]
    turns = []
    for tenant in _waiting_tenants(session, served):
        running = _running(session, tenant)
        if max_running is None or running < max_running:
            turns.append((running, _last_start(session, tenant), tenant))
    return _oldest(session, min(turns)[2], served) if turns else None


def publish_again_soon(session: Session, inspection_id: str) -> None:
    """Have a message sent again for one that was dropped because the tenants that wait are at their limits.

    The message may have named an inspection that runs by now, since any message serves any inspection; then one that
    waits is published.
    """
    waiting = select(InspectionRecord.id).where(InspectionRecord.status == "queued")
    own = session.scalar(waiting.where(InspectionRecord.id == inspection_id))
    chosen = own or session.scalar(waiting.order_by(InspectionRecord.dispatch_due_at.desc()).limit(1))
    if chosen is not None:
        soon = update(InspectionRecord).where(InspectionRecord.id == chosen, InspectionRecord.status == "queued")
        change(session, soon.values(dispatch_due_at=clock.now_plus(LIMITED_SECONDS)))


def _waiting_tenants(session: Session, queues: Sequence[str]) -> list[str]:
    """List the tenants with an inspection that can be claimed: each by one look into an index, not by reading all."""
    tenants: list[str] = []
    while True:
        waiting = select(func.min(InspectionRecord.tenant_id)).where(InspectionRecord.status == "queued")
        if tenants:
            waiting = waiting.where(InspectionRecord.tenant_id > tenants[-1])
        found = session.scalar(waiting)
        if found is None:
            return [tenant for tenant in tenants if _oldest(session, tenant, queues) is not None]
        tenants.append(found)


def _oldest(session: Session, tenant: str, queues: Sequence[str]) -> str | None:
    return session.scalar(
        select(InspectionRecord.id)
        .where(
            InspectionRecord.tenant_id == tenant,
            InspectionRecord.status == "queued",
            InspectionRecord.queue.in_(queues),
            InspectionRecord.available_at <= clock.now(),
        )
        .order_by(InspectionRecord.created_at, InspectionRecord.id)
        .limit(1)
    )


def _running(session: Session, tenant: str) -> int:
    mine = InspectionRecord.tenant_id == tenant, InspectionRecord.status == "running"
    return int(session.scalar(select(func.count()).where(*mine)) or 0)


def _last_start(session: Session, tenant: str) -> float:
    """Return when a tenant was last served, in seconds; 0 for one that never was."""
    found = session.scalar(
        select(InspectionRecord.started_at)
        .where(InspectionRecord.tenant_id == tenant, InspectionRecord.started_at.is_not(None))
        .order_by(InspectionRecord.started_at.desc())
        .limit(1)
    )
    return 0.0 if found is None else found.timestamp()
