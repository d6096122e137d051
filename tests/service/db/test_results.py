"""Rows of a report are read back as stored, on both databases, for every field of the contract."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gradinspect.contracts.report.report import Finding
from gradinspect.contracts.report.rows import (
    ActivationStatistics,
    LayerMeasurement,
    Log2Histogram,
    ParameterMeasurement,
    Quantiles,
    SignalStatistics,
)
from service.db.engine import Database
from service.db.lists import row_queries
from service.db.results import flattening as rows
from service.db.results import writing as results
from service.db.results.tables import (
    INDEXED_LAYER_FIELDS,
    INDEXED_PARAMETER_FIELDS,
    FindingRecord,
    LayerRecord,
    ParameterRecord,
)
from tests.support.specimens import TENANT, end_well, finding, layer, make_report, parameter

ALL_LAYERS = row_queries.InspectionLayerQuery()
ALL_PARAMETERS = row_queries.InspectionParameterQuery()

NOUNS = [(rows.LAYERS, LayerRecord), (rows.PARAMETERS, ParameterRecord), (rows.FINDINGS, FindingRecord)]
PLACE = {"inspection_id", "tenant_id", "position", "model_id", "nested"}


@pytest.mark.parametrize(("shape", "record"), NOUNS)
def test_every_field_of_the_contract_has_a_column_and_no_column_is_without_a_field(
    shape: rows.Shape, record: type[LayerRecord]
) -> None:
    columns = {column.name: column for column in record.__table__.columns if column.name not in PLACE}
    assert {field.column for field in shape.fields} == set(columns)
    for field in shape.fields:
        assert (columns[field.column].type.python_type in (int, float)) == field.is_number, field.column


def test_every_number_can_be_filtered_and_the_indexed_ones_exist() -> None:
    assert {"signal_rms", "activation_std", "backward_gain", "depth", "nonfinite_count"} <= rows.LAYERS.numbers
    assert {"grad_norm", "grad_quantiles_p50", "numel", "log2_histogram_zeros"} <= rows.PARAMETERS.numbers
    assert "log2_histogram_sampled" not in rows.PARAMETERS.numbers
    assert set(INDEXED_LAYER_FIELDS) <= rows.LAYERS.numbers
    assert set(INDEXED_PARAMETER_FIELDS) <= rows.PARAMETERS.numbers


def test_the_rows_of_a_report_are_read_back_unchanged(database: Database) -> None:
    layers = (layer(0), layer(1, activation=None, signal=None, backward_gain=None))
    parameters = (parameter(0), parameter(1, grad_quantiles=None, log2_histogram=None, aliases=()))
    findings = (finding(), finding("dead_units", remedy=None, value=None, threshold=None))
    inspection_id = end_well(database, report=make_report(layers, parameters, findings))
    with database.read() as session:
        read_layers = row_queries.layers(session, ALL_LAYERS, tenant=TENANT, inspection=inspection_id).items
        read_parameters = row_queries.parameters(session, ALL_PARAMETERS, tenant=TENANT, inspection=inspection_id).items
        assert results.findings(session, inspection_id, tenant=TENANT) == list(findings)
        assert results.findings(session, inspection_id, tenant="other") == []
    for row, stored in zip(read_layers, layers, strict=True):
        assert row.inspection == inspection_id
        assert LayerMeasurement(**row.model_dump(exclude={"inspection", "model", "measured_by"})) == stored
    for parameter_row, saved in zip(read_parameters, parameters, strict=True):
        assert parameter_row.model.startswith("mdl_")
        assert ParameterMeasurement(**parameter_row.model_dump(exclude={"inspection", "model", "measured_by"})) == saved


def test_an_object_whose_numbers_are_all_null_is_not_an_absent_one(database: Database) -> None:
    stored = layer(activation=ActivationStatistics(), preactivation=None, signal=SignalStatistics())
    inspection_id = end_well(database, report=make_report((stored,)))
    with database.read() as session:
        (row,) = row_queries.layers(session, ALL_LAYERS, tenant=TENANT, inspection=inspection_id).items
    assert (row.activation, row.preactivation, row.signal) == (ActivationStatistics(), None, SignalStatistics())


finite = st.none() | st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**63 - 1)
names = st.text(min_size=1, max_size=20)


@example(name="\x00", norm=None, p50=5e-324, numel=2**63 - 1, lowest=0, tail=0)
@given(name=names, norm=finite, p50=finite, numel=counts, lowest=st.integers(-2000, 2000), tail=counts)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_name_and_any_finite_number_survive(
    database: Database, name: str, norm: float | None, p50: float | None, numel: int, lowest: int, tail: int
) -> None:
    stored = parameter(
        name=name,
        grad_norm=norm,
        grad_quantiles=Quantiles(p50=p50),
        numel=numel,
        log2_histogram=Log2Histogram(lowest=lowest, counts=(tail,)),
    )
    message = finding(message=name)
    inspection_id = end_well(database, report=make_report((), (stored,), (message,)))
    with database.read() as session:
        (row,) = row_queries.parameters(session, ALL_PARAMETERS, tenant=TENANT, inspection=inspection_id).items
        (found,) = results.findings(session, inspection_id, tenant=TENANT)
    readable = name.replace("\x00", "\ufffd")
    assert row.name == readable, "PostgreSQL takes no NUL in a text"
    assert (row.grad_norm, row.numel) == (norm, numel)
    assert row.grad_quantiles == Quantiles(p50=p50)
    assert row.log2_histogram == stored.log2_histogram
    assert found == Finding(**(message.model_dump() | {"message": readable, "layers": ("0",)}))
