"""The tables of API keys and of the audit log."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, PrimaryKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.db import clock
from service.db.tables import Table


class KeyRecord(Table):
    """An API key: who it belongs to, what it may do, and the digest of its secret. A revoked key keeps its row."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(doc="32 hexadecimal digits, in order of creation")
    name: Mapped[str]
    secret_digest: Mapped[str] = mapped_column(doc="SHA-256 of the secret, which is stored nowhere")
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(default=clock.now())
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None] = mapped_column(doc="written at most once a minute")
    revoked_at: Mapped[datetime | None]

    __table_args__ = (
        PrimaryKeyConstraint("id", "tenant_id"),
        Index("api_keys_newest", "tenant_id", "created_at", "id"),
    )


class AuditRecord(Table):
    """One act of a caller. Triggers refuse to change or delete a row."""

    __tablename__ = "audit_log"

    id: Mapped[str] = mapped_column(doc="32 hexadecimal digits, in order of time")
    created_at: Mapped[datetime] = mapped_column(default=clock.now())
    key_id: Mapped[str | None] = mapped_column(doc="null for a caller on loopback without a key")
    action: Mapped[str] = mapped_column(doc="name of the operation")
    object: Mapped[str | None] = mapped_column(doc="id of what it was done to")
    address: Mapped[str] = mapped_column(doc="of the caller")
    status: Mapped[int] = mapped_column(doc="HTTP status")
    code: Mapped[str | None] = mapped_column(doc="code of the problem, null after a success")
    request_id: Mapped[str]

    __table_args__ = (
        PrimaryKeyConstraint("id", "tenant_id"),
        Index("audit_log_newest", "tenant_id", "created_at", "id"),
        Index("audit_log_object", "tenant_id", "object", "created_at", "id"),
        Index("audit_log_key", "tenant_id", "key_id", "created_at", "id"),
    )
