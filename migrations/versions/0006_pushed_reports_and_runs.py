"""Reports that clients measured, and the training runs that they are steps of.

Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OF_A_RUN = "run_id IS NOT NULL AND deleted_at IS NULL"
PUSHED = "SELECT id FROM inspections WHERE measured_by = 'client'"
NOT_HERE = "spec IS NULL AND torchscript IS NULL"


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("every", sa.BigInteger(), nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("end", sa.JSON(), nullable=True),
        _time("created_at"),
        _time("ended_at", nullable=True),
        sa.PrimaryKeyConstraint("id", "tenant_id", name="runs_pk"),
    )
    op.create_index("runs_newest", "runs", ["tenant_id", "created_at", "id"])
    # The release before this one inserts rows without the column.
    op.add_column("inspections", sa.Column("measured_by", sa.Text(), server_default="service", nullable=False))
    op.add_column("inspections", sa.Column("run_id", sa.Text(), nullable=True))
    op.add_column("inspections", sa.Column("step", sa.BigInteger(), nullable=True))
    op.add_column("inspections", sa.Column("training", sa.JSON(), nullable=True))
    condition = sa.text(OF_A_RUN)
    op.create_index(
        "inspections_run", "inspections", ["tenant_id", "run_id", "step"], unique=True,
        sqlite_where=condition, postgresql_where=condition,
    )  # fmt: skip


def downgrade() -> None:
    # The older schema has no place for them: its readers expect that every report was measured by a worker.
    for table in ("labels", "layers", "parameters", "findings"):
        op.execute(f"DELETE FROM {table} WHERE inspection_id IN ({PUSHED})")  # noqa: S608  # our own names
    op.execute("DELETE FROM inspections WHERE measured_by = 'client'")
    op.execute(f"DELETE FROM models WHERE {NOT_HERE}")  # noqa: S608  # our own names
    op.drop_index("inspections_run", "inspections")
    for column in ("training", "step", "run_id", "measured_by"):
        op.drop_column("inspections", column)
    op.drop_table("runs")


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    # Text with milliseconds on SQLite, which has no type for time.
    return sa.Column(name, sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite"), nullable=nullable)
