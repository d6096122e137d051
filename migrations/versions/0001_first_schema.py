"""Artifacts, models, policies, inspections with labels, results, idempotency keys, counters.

Revises: nothing
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "artifacts",
    "models",
    "policies",
    "inspections",
    "labels",
    "idempotency_keys",
    "layers",
    "parameters",
    "findings",
    "counters",
)

LAYER_NUMBERS = (
    "activation_mean activation_std activation_rms activation_abs_max "
    "preactivation_mean preactivation_std preactivation_rms preactivation_abs_max "
    "signal_norm signal_rms forward_gain backward_gain activation_gain weight_gain cumulative_backward_gain "
    "grad_norm dead_unit_fraction saturated_fraction mean_squared_slope sample_similarity predicted_chi1 measured_chi1"
)
LAYER_INDEXES = (
    "signal_rms activation_std forward_gain backward_gain cumulative_backward_gain grad_norm "
    "dead_unit_fraction saturated_fraction nonfinite_count name kind nonlinearity model_id"
)
PARAMETER_NUMBERS = (
    "grad_norm grad_rms grad_mean grad_std grad_abs_max grad_abs_mean "
    "grad_quantiles_p01 grad_quantiles_p05 grad_quantiles_p25 grad_quantiles_p50 "
    "grad_quantiles_p75 grad_quantiles_p95 grad_quantiles_p99 "
    "zero_fraction weight_norm weight_rms grad_to_weight update_norm update_to_weight grad_snr noise_scale "
    "hessian_trace curvature_along_gradient top_eigenvalue fp16_flush_fraction bf16_flush_fraction"
)
PARAMETER_INDEXES = (
    "grad_norm grad_rms grad_to_weight update_to_weight zero_fraction fp16_flush_fraction "
    "grad_snr noise_scale nan_count name layer dtype status model_id"
)


def upgrade() -> None:
    _create_artifacts()
    _create_models()
    _create_policies()
    _create_inspections()
    _create_labels()
    _create_idempotency_keys()
    _create_layers()
    _create_parameters()
    _create_findings()
    _create_counters()


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_artifacts() -> None:
    op.create_table(
        "artifacts",
        _text("id"),
        _text("tenant_id"),
        _text("kind"),
        _integer("size_bytes"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", "tenant_id", name="artifacts_pk"),
    )


def _create_models() -> None:
    op.create_table(
        "models",
        _text("id"),
        _text("tenant_id"),
        _text("name", nullable=True),
        _text("kind"),
        _text("digest"),
        _json("spec", nullable=True),
        _text("torchscript", nullable=True),
        _text("weights", nullable=True),
        _json("input", nullable=True),
        _integer("parameters", nullable=True),
        sa.Column("is_inline", sa.Boolean(), nullable=False),
        _time("created_at"),
        _time("deleted_at", nullable=True),
        sa.PrimaryKeyConstraint("id", "tenant_id", name="models_pk"),
    )
    op.create_index("models_newest", "models", ["tenant_id", "created_at", "id"])
    _create_partial_index(
        "models_inline_digest", "models", ["tenant_id", "digest"], "is_inline AND deleted_at IS NULL", unique=True
    )
    op.create_index("models_torchscript", "models", ["tenant_id", "torchscript"])
    op.create_index("models_weights", "models", ["tenant_id", "weights"])


def _create_policies() -> None:
    op.create_table(
        "policies",
        _text("id"),
        _text("tenant_id"),
        _text("name"),
        _integer("version"),
        _json("document"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", "tenant_id", name="policies_pk"),
    )
    op.create_index("policies_name", "policies", ["tenant_id", "name", "version"], unique=True)


def _create_inspections() -> None:
    op.create_table(
        "inspections",
        _text("id"),
        _text("tenant_id"),
        _text("model_id"),
        _json("request"),
        _json("labels"),
        _text("policy"),
        _json("policy_document"),
        _text("data_artifact", nullable=True),
        _text("queue"),
        _text("status"),
        _text("stage"),
        sa.Column("fraction", sa.Double(), nullable=False),
        _text("verdict", nullable=True),
        _json("summary", nullable=True),
        _text("report_key", nullable=True),
        _text("error_code", nullable=True),
        _text("error_detail", nullable=True),
        _integer("error_attempt", nullable=True),
        _integer("attempt"),
        _integer("releases"),
        _text("lease_token", nullable=True),
        _text("lease_owner", nullable=True),
        _time("lease_until", nullable=True),
        _time("available_at"),
        _time("dispatch_due_at"),
        _time("dispatched_at", nullable=True),
        _integer("dispatches"),
        _time("created_at"),
        _time("started_at", nullable=True),
        _time("finished_at", nullable=True),
        _time("deleted_at", nullable=True),
        sa.PrimaryKeyConstraint("id", "tenant_id", name="inspections_pk"),
        sa.ForeignKeyConstraint(
            ["model_id", "tenant_id"], ["models.id", "models.tenant_id"], name="inspections_models_fk"
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("inspections_status_check")
        ),
        sa.CheckConstraint("status <> 'running' OR lease_token IS NOT NULL", name=op.f("inspections_lease_check")),
    )
    op.create_index("inspections_newest", "inspections", ["tenant_id", "created_at", "id"])
    op.create_index("inspections_status", "inspections", ["tenant_id", "status", "created_at", "id"])
    op.create_index("inspections_verdict", "inspections", ["tenant_id", "verdict", "created_at", "id"])
    op.create_index("inspections_model", "inspections", ["tenant_id", "model_id", "created_at", "id"])
    op.create_index("inspections_data", "inspections", ["tenant_id", "data_artifact"])
    _create_partial_index("inspections_leases", "inspections", ["lease_until"], "status = 'running'")
    _create_partial_index("inspections_dispatch", "inspections", ["dispatch_due_at"], "status = 'queued'")
    _create_partial_index("inspections_kept", "inspections", ["finished_at"], "deleted_at IS NULL")
    _create_partial_index("inspections_marked", "inspections", ["deleted_at"], "deleted_at IS NOT NULL")


def _create_labels() -> None:
    op.create_table(
        "labels",
        _text("inspection_id"),
        _text("tenant_id"),
        _text("key"),
        _text("value"),
        sa.PrimaryKeyConstraint("inspection_id", "tenant_id", "key", name="labels_pk"),
        _of_inspection("labels"),
    )
    op.create_index("labels_value", "labels", ["tenant_id", "key", "value", "inspection_id"])


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        _text("key"),
        _text("tenant_id"),
        _text("request_digest"),
        _text("inspection_id", nullable=True),
        _time("created_at"),
        _time("expires_at"),
        sa.PrimaryKeyConstraint("key", "tenant_id", name="idempotency_keys_pk"),
    )
    op.create_index("idempotency_keys_expiry", "idempotency_keys", ["expires_at"])


def _create_counters() -> None:
    op.create_table(
        "counters",
        _text("name"),
        _text("tenant_id"),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "tenant_id", name="counters_pk"),
    )


def _create_layers() -> None:
    _create_results(
        "layers",
        _json("nested"),
        _integer("depth"),
        _text("name"),
        _integer("call"),
        _text("kind"),
        _json("parameters"),
        _json("output_shape"),
        _text("nonlinearity", nullable=True),
        *_numbers(LAYER_NUMBERS),
        _integer("nonfinite_count"),
    )
    _create_field_indexes("layers", LAYER_INDEXES)


def _create_parameters() -> None:
    _create_results(
        "parameters",
        _json("nested"),
        _text("name"),
        _json("aliases"),
        _text("layer"),
        _json("shape"),
        _integer("numel"),
        _text("dtype"),
        _text("status"),
        *_numbers(PARAMETER_NUMBERS),
        _integer("log2_histogram_lowest", nullable=True),
        _json("log2_histogram_counts", nullable=True),
        _integer("log2_histogram_below", nullable=True),
        _integer("log2_histogram_above", nullable=True),
        _integer("log2_histogram_zeros", nullable=True),
        sa.Column("log2_histogram_sampled", sa.Boolean(), nullable=True),
        _integer("nan_count"),
        _integer("inf_count"),
        _integer("weight_nonfinite_count"),
    )
    _create_field_indexes("parameters", PARAMETER_INDEXES)


def _create_findings() -> None:
    _create_results(
        "findings",
        _text("rule"),
        _text("severity"),
        _json("layers"),
        _json("parameters"),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=True),
        _text("message"),
        _text("explanation"),
        _json("remedy", nullable=True),
    )
    op.create_index("findings_rule", "findings", ["tenant_id", "rule", "inspection_id"])


def _create_results(table: str, *columns: sa.Column[object]) -> None:
    op.create_table(
        table,
        _text("inspection_id"),
        _text("tenant_id"),
        _integer("position"),
        _text("model_id"),
        *columns,
        sa.PrimaryKeyConstraint("tenant_id", "inspection_id", "position", name=f"{table}_pk"),
        _of_inspection(table),
    )


def _of_inspection(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["inspection_id", "tenant_id"],
        ["inspections.id", "inspections.tenant_id"],
        name=f"{table}_inspections_fk",
        ondelete="CASCADE",
    )


def _create_field_indexes(table: str, fields: str) -> None:
    for field in fields.split():
        op.create_index(f"{table}_{field}", table, ["tenant_id", field, "inspection_id", "position"])


def _create_partial_index(
    name: str, table: str, columns: Sequence[str], condition: str, *, unique: bool = False
) -> None:
    where = sa.text(condition)
    op.create_index(name, table, list(columns), unique=unique, sqlite_where=where, postgresql_where=where)


def _numbers(names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, sa.Double(), nullable=True) for name in names.split()]


def _text(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _integer(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _json(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    # Text with milliseconds on SQLite, which has no type for time.
    return sa.Column(name, sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite"), nullable=nullable)
