"""Indexes for the turns of tenants: their oldest queued inspection, and when each was last served.

Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

QUEUED = sa.text("status = 'queued'")


def upgrade() -> None:
    op.create_index("inspections_started", "inspections", ["tenant_id", "started_at"])
    op.create_index(
        "inspections_turns", "inspections", ["tenant_id", "created_at", "id"], sqlite_where=QUEUED,
        postgresql_where=QUEUED,
    )  # fmt: skip


def downgrade() -> None:
    op.drop_index("inspections_turns", "inspections")
    op.drop_index("inspections_started", "inspections")
