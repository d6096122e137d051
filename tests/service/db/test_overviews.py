"""Results shown in lists: subsampled signals, counted findings, names of models."""

import math

import pytest

from gradinspect.contracts.document import from_python
from gradinspect.contracts.report.report import Measurements
from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.contracts.request.request import InspectionRequest, InspectionSettings
from gradinspect.contracts.sources import SpecSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.rules import judge
from gradinspect.testing.measurements import MODEL, chain
from service.db import DEFAULT_TENANT, inspections, leases, models
from service.db.engine import Database
from service.db.lists import overviews
from service.db.tables import InspectionRecord

SPEC = {"input": {"shape": [8]}, "layers": [{"type": "Linear", "out_features": 4}]}


def ended(database: Database, measured: Measurements | None, *, name: str | None = "net") -> InspectionRecord:
    """Make an inspection: with a report when there are measurements, else queued."""
    spec = from_python(ModelSpec, SPEC)
    request = from_python(InspectionRequest, {"model": {"spec": SPEC}})
    with database.write() as session:
        model = models.register(session, SpecSource(spec=spec), tenant=DEFAULT_TENANT, name=name)
        record = inspections.insert(
            session, request, tenant=DEFAULT_TENANT, model=model, policy=DEFAULT_POLICY, queue="cpu", max_queued=100
        )
        inspection_id = record.id
    if measured is not None:
        with database.write() as session:
            claim = leases.claim(session, inspection_id, owner="test", lease_seconds=60)
        assert claim is not None
        report = judge(
            measured, policy=DEFAULT_POLICY, model=MODEL, inspection=inspection_id, settings=InspectionSettings()
        )
        with database.write() as session:
            assert leases.finish(session, claim.lease, report, report_key=f"{inspection_id}.1")
    with database.read() as session:
        return inspections.get(session, inspection_id, tenant=DEFAULT_TENANT)


def test_each_inspection_has_its_signals_and_counts(database: Database) -> None:
    first, second = ended(database, chain((0.1,) * 4)), ended(database, chain((1.0,) * 2))
    waiting = ended(database, None)
    with database.read() as session:
        found = overviews.of_inspections(session, [first, second, waiting], tenant=DEFAULT_TENANT)
    assert set(found) == {first.id, second.id}
    assert found[first.id].signals == pytest.approx([1e-4, 1e-3, 1e-2, 0.1, 1.0])
    assert found[first.id].severities == {"warn": 1}
    assert found[second.id].signals == [1.0, 1.0, 1.0]
    assert not found[second.id].severities


def test_signals_of_deep_networks_are_subsampled_with_both_ends(database: Database) -> None:
    record = ended(database, chain((0.99,) * 1000))
    with database.read() as session:
        signals = overviews.of_inspections(session, [record], tenant=DEFAULT_TENANT)[record.id].signals
    assert len(signals) <= overviews.MOST_POINTS + 1
    assert signals[0] == pytest.approx(0.99**1000)
    assert signals[-1] == 1.0
    assert all(math.isfinite(signal or math.nan) for signal in signals)


def test_other_tenants_see_nothing(database: Database) -> None:
    record = ended(database, chain())
    with database.read() as session:
        found = overviews.of_inspections(session, [record], tenant="somebody")
        names = overviews.model_names(session, [record.model_id], tenant="somebody")
    assert found[record.id].signals == []
    assert names == {}


def test_a_model_without_a_name_is_described_by_its_layers(database: Database) -> None:
    named, nameless = ended(database, None), ended(database, None, name=None)
    with database.read() as session:
        names = overviews.model_names(session, [named.model_id, nameless.model_id], tenant=DEFAULT_TENANT)
    assert names == {named.model_id: "net", nameless.model_id: "1 Linear"}


def test_the_time_is_that_of_the_database_with_its_zone(database: Database) -> None:
    with database.read() as session:
        assert overviews.now(session).tzinfo is not None


def test_a_spec_without_a_name_is_described_by_its_most_frequent_layers() -> None:
    block = {"type": "Residual", "layers": [{"type": "Linear"}, {"type": "ReLU"}], "shortcut": [{"type": "Conv2d"}]}
    layers = [{"repeat": 3, "layers": [block, {"type": "Linear"}]}, {"type": "Linear"}, {"type": "Flatten"}]
    assert overviews._layers_of({"layers": layers}).startswith("7 Linear, 3 ")
    assert overviews._layers_of({"layers": layers}).endswith(", …")
    assert overviews._layers_of({"layers": [{"type": "Concat", "branches": [[{"type": "Tanh"}]] * 2}]}) == "2 Tanh"
