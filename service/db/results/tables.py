"""The tables of results: layers, parameters and findings of inspections that ended well.

Columns are the fields of `contracts.report`, nested ones joined by an underscore; a test compares the two. A row
repeats the model's id, so that a list across all inspections needs no join.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKeyConstraint, Index, PrimaryKeyConstraint
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from service.db.tables import Json, Table

# Have an index for sorting and filtering across all inspections; other fields need a scan of the tenant's rows.
INDEXED_LAYER_FIELDS = (
    "signal_rms",
    "activation_std",
    "forward_gain",
    "backward_gain",
    "cumulative_backward_gain",
    "grad_norm",
    "dead_unit_fraction",
    "saturated_fraction",
    "nonfinite_count",
)
INDEXED_PARAMETER_FIELDS = (
    "grad_norm",
    "grad_rms",
    "grad_to_weight",
    "update_to_weight",
    "zero_fraction",
    "fp16_flush_fraction",
    "grad_snr",
    "noise_scale",
    "nan_count",
)


# Filtered by equality across all inspections; newest first.
INDEXED_LAYER_TEXTS = ("name", "kind", "nonlinearity", "model_id")
INDEXED_PARAMETER_TEXTS = ("name", "layer", "dtype", "status", "model_id")


class _Result:
    """A row of one inspection, with its position in the report."""

    __tablename__: str

    inspection_id: Mapped[str]
    position: Mapped[int]
    model_id: Mapped[str]

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:  # Any: as SQLAlchemy declares it
        return (
            PrimaryKeyConstraint("tenant_id", "inspection_id", "position"),
            ForeignKeyConstraint(
                ["inspection_id", "tenant_id"], ["inspections.id", "inspections.tenant_id"], ondelete="CASCADE"
            ),
            *cls.extra_indexes(),
        )

    @classmethod
    def extra_indexes(cls) -> list[Index]:
        """Return the indexes that only this table has."""
        return []


def _field_indexes(table: str, fields: tuple[str, ...]) -> list[Index]:
    return [Index(f"{table}_{field}", "tenant_id", field, "inspection_id", "position") for field in fields]


class LayerRecord(_Result, Table):
    """One layer call: `contracts.report.LayerMeasurement`."""

    __tablename__ = "layers"

    nested: Mapped[list[str]] = mapped_column(doc="which nested objects were present, though maybe all null")
    depth: Mapped[int]
    name: Mapped[str]
    call: Mapped[int]
    kind: Mapped[str]
    parameters: Mapped[list[str]]
    output_shape: Mapped[list[int]]
    activation_mean: Mapped[float | None]
    activation_std: Mapped[float | None]
    activation_rms: Mapped[float | None]
    activation_abs_max: Mapped[float | None]
    preactivation_mean: Mapped[float | None]
    preactivation_std: Mapped[float | None]
    preactivation_rms: Mapped[float | None]
    preactivation_abs_max: Mapped[float | None]
    nonlinearity: Mapped[str | None]
    joined_nonlinearity: Mapped[str | None]
    signal_norm: Mapped[float | None]
    signal_rms: Mapped[float | None]
    forward_gain: Mapped[float | None]
    backward_gain: Mapped[float | None]
    activation_gain: Mapped[float | None]
    weight_gain: Mapped[float | None]
    cumulative_backward_gain: Mapped[float | None]
    grad_norm: Mapped[float | None]
    dead_unit_fraction: Mapped[float | None]
    saturated_fraction: Mapped[float | None]
    mean_squared_slope: Mapped[float | None]
    sample_similarity: Mapped[float | None]
    nonfinite_count: Mapped[int]
    predicted_chi1: Mapped[float | None]
    measured_chi1: Mapped[float | None]

    @classmethod
    def extra_indexes(cls) -> list[Index]:
        return _field_indexes("layers", INDEXED_LAYER_FIELDS + INDEXED_LAYER_TEXTS)


class ParameterRecord(_Result, Table):
    """One parameter tensor: `contracts.report.ParameterMeasurement`."""

    __tablename__ = "parameters"

    nested: Mapped[list[str]] = mapped_column(doc="which nested objects were present, though maybe all null")
    name: Mapped[str]
    aliases: Mapped[list[str]]
    layer: Mapped[str]
    shape: Mapped[list[int]]
    numel: Mapped[int]
    dtype: Mapped[str]
    status: Mapped[str]
    grad_norm: Mapped[float | None]
    grad_rms: Mapped[float | None]
    grad_mean: Mapped[float | None]
    grad_std: Mapped[float | None]
    grad_abs_max: Mapped[float | None]
    grad_abs_mean: Mapped[float | None]
    grad_quantiles_p01: Mapped[float | None]
    grad_quantiles_p05: Mapped[float | None]
    grad_quantiles_p25: Mapped[float | None]
    grad_quantiles_p50: Mapped[float | None]
    grad_quantiles_p75: Mapped[float | None]
    grad_quantiles_p95: Mapped[float | None]
    grad_quantiles_p99: Mapped[float | None]
    log2_histogram_lowest: Mapped[int | None]
    log2_histogram_counts: Mapped[list[int] | None]
    log2_histogram_below: Mapped[int | None]
    log2_histogram_above: Mapped[int | None]
    log2_histogram_zeros: Mapped[int | None]
    log2_histogram_sampled: Mapped[bool | None]
    zero_fraction: Mapped[float | None]
    nan_count: Mapped[int]
    inf_count: Mapped[int]
    weight_norm: Mapped[float | None]
    weight_rms: Mapped[float | None]
    weight_nonfinite_count: Mapped[int]
    grad_to_weight: Mapped[float | None]
    update_norm: Mapped[float | None]
    update_to_weight: Mapped[float | None]
    grad_snr: Mapped[float | None]
    noise_scale: Mapped[float | None]
    hessian_trace: Mapped[float | None]
    curvature_along_gradient: Mapped[float | None]
    top_eigenvalue: Mapped[float | None]
    fp16_flush_fraction: Mapped[float | None]
    bf16_flush_fraction: Mapped[float | None]

    @classmethod
    def extra_indexes(cls) -> list[Index]:
        return _field_indexes("parameters", INDEXED_PARAMETER_FIELDS + INDEXED_PARAMETER_TEXTS)


class FindingRecord(_Result, Table):
    """One rule that fired: `contracts.report.Finding`."""

    __tablename__ = "findings"

    rule: Mapped[str]
    severity: Mapped[str]
    layers: Mapped[list[str]]
    parameters: Mapped[list[str]]
    value: Mapped[float | None]
    threshold: Mapped[float | None]
    message: Mapped[str]
    explanation: Mapped[str]
    remedy: Mapped[Json | None]
    operation: Mapped[Json | None]

    @classmethod
    def extra_indexes(cls) -> list[Index]:
        return [Index("findings_rule", "tenant_id", "rule", "inspection_id")]
