"""The nonlinearities that take the outputs of several layer calls, or a part of one.

Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("layers", sa.Column("joined_nonlinearity", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("layers", "joined_nonlinearity")
