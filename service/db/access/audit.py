"""Rows of the audit log: added, and read in pages. Nothing changes or removes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import uuid_utils
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.db.access.tables import AuditRecord
from service.db.lists.pages import Listing, page_of
from service.query_strings import Moment, PageQuery, PlainText

ShortText = Annotated[PlainText, Field(max_length=128)]


@dataclass(frozen=True)
class Act:
    """What a caller did.

    Attributes:
        tenant: of the caller.
        key_id: of its key, if it had one.
        action: name of the operation.
        object: id of what it was done to.
        address: of the caller.
        status: HTTP status of the answer.
        code: of the problem, None after a success.
        request_id: of the request, as in its log line.
    """

    tenant: str
    key_id: str | None
    action: str
    object: str | None
    address: str
    status: int
    code: str | None
    request_id: str


class AuditQuery(PageQuery):
    """The parameters of the audit log."""

    action: Annotated[ShortText | None, Field(description="Name of an operation, such as `submit_inspection`.")] = None
    object: Annotated[ShortText | None, Field(description="Id of what it was done to.")] = None
    key: Annotated[ShortText | None, Field(description="Id of the caller's key.")] = None
    code: Annotated[ShortText | None, Field(description="Code of the problem, such as `missing_scope`.")] = None
    created_after: Annotated[Moment | None, Field(description="Later than this moment.")] = None
    created_before: Annotated[Moment | None, Field(description="Earlier than this moment.")] = None


def insert(session: Session, act: Act) -> None:
    """Add an act, at the database's time."""
    session.add(
        AuditRecord(
            id=uuid_utils.uuid7().hex, tenant_id=act.tenant, key_id=act.key_id, action=act.action, object=act.object,
            address=act.address, status=act.status, code=act.code, request_id=act.request_id,
        )
    )  # fmt: skip


def acts(session: Session, query: AuditQuery, *, tenant: str) -> Listing[AuditRecord]:
    """Read a page of the audit log of one tenant, newest first.

    Raises:
        ProblemError: `invalid_request` for a cursor of another list.
    """
    rows = select(AuditRecord).where(AuditRecord.tenant_id == tenant)
    filters: dict[str, str | None] = {
        "action": query.action, "object": query.object, "key_id": query.key, "code": query.code,
    }  # fmt: skip
    for column, value in filters.items():
        if value is not None:
            rows = rows.where(AuditRecord.__table__.c[column] == value)
    if query.created_after is not None:
        rows = rows.where(AuditRecord.created_at > query.created_after)
    if query.created_before is not None:
        rows = rows.where(AuditRecord.created_at < query.created_before)
    return page_of(session, rows, AuditRecord, query, tenant)
