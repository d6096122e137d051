"""Rows of living workers, which formerly wrote files into the store.

Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        # Text with milliseconds on SQLite, which has no type for time.
        sa.Column("seen_at", sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("name", "tenant_id", name="workers_pk"),
    )


def downgrade() -> None:
    op.drop_table("workers")
