"""The operation at which a pass breaks, with each finding that names it.

Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("findings", sa.Column("operation", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("findings", "operation")
