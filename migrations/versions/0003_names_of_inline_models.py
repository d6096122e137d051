"""Names of inline specs: the same spec under two names is two models. Models are found by their name.

Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INLINE = "is_inline AND deleted_at IS NULL"
UNNAMED = f"{INLINE} AND name IS NULL"


def upgrade() -> None:
    op.drop_index("models_inline_digest", "models")
    _create_inline_index("models_inline_digest", ["tenant_id", "digest"], UNNAMED)
    _create_inline_index("models_inline_name", ["tenant_id", "digest", "name"], INLINE)
    op.create_index("models_name", "models", ["tenant_id", "name", "created_at", "id"])


def downgrade() -> None:
    op.drop_index("models_name", "models")
    op.drop_index("models_inline_name", "models")
    op.drop_index("models_inline_digest", "models")
    # A named model is no longer inline, because the older schema has one inline model per spec.
    op.execute("UPDATE models SET is_inline = false WHERE is_inline AND name IS NOT NULL")
    _create_inline_index("models_inline_digest", ["tenant_id", "digest"], INLINE)


def _create_inline_index(name: str, columns: list[str], condition: str) -> None:
    op.create_index(
        name, "models", columns, unique=True, sqlite_where=sa.text(condition), postgresql_where=sa.text(condition)
    )
