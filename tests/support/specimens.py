"""Rows for tests of the service: models, inspections in any state, reports of any size, workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import (
    Environment,
    Finding,
    Measurements,
    ModelReference,
    Remedy,
    Report,
    Summary,
    Verdict,
)
from gradinspect.contracts.report.rows import (
    ActivationStatistics,
    LayerMeasurement,
    Log2Histogram,
    ParameterMeasurement,
    Quantiles,
    SignalStatistics,
)
from gradinspect.contracts.request.policy import DEFAULT_POLICY, Policy
from gradinspect.contracts.request.request import InspectionRequest
from gradinspect.contracts.sources import SpecSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from service.db import inspections, leases, models, workers
from service.db.engine import Database
from service.db.leases import Claim
from service.db.tables import InspectionRecord
from service.db.workers import OneWorker
from service.settings import Settings
from service.store.local import LocalStore
from service.store.storage import Store, Upload

TENANT = "default"
SPEC: dict[str, Any] = {
    "input": {"shape": [4]},
    "layers": [{"type": "Linear", "in_features": 4, "out_features": 2}],
}


class Ended(Protocol):
    """Make an inspection that ended well and return its id."""

    def __call__(
        self, measured: Measurements | None = None, *, policy: Policy = DEFAULT_POLICY, **fields: Any
    ) -> str: ...


def spec(out_features: int = 2) -> ModelSpec:
    layer = {"type": "Linear", "in_features": 4, "out_features": out_features}
    return from_python(ModelSpec, {"input": {"shape": [4]}, "layers": [layer]})


def request(**fields: Any) -> InspectionRequest:
    return from_python(InspectionRequest, {"model": {"spec": SPEC}, **fields})


def submit(
    database: Database,
    *,
    tenant: str = TENANT,
    max_queued: int = 10_000,
    model_id: str | None = None,
    **fields: Any,
) -> InspectionRecord:
    """Queue an inspection of a small model."""
    with database.write() as session:
        model = (
            models.register_inline(session, SpecSource(spec=spec()), tenant=tenant)
            if model_id is None
            else models.hold(session, model_id, tenant=tenant)
        )
        return inspections.insert(
            session,
            request(**fields),
            tenant=tenant,
            model=model,
            policy=DEFAULT_POLICY,
            queue="cpu",
            max_queued=max_queued,
        )


def take(database: Database, inspection_id: str, *, lease_seconds: float = 60.0, owner: str = "worker") -> Claim:
    """Claim a queued inspection."""
    with database.write() as session:
        claim = leases.claim(session, inspection_id, owner=owner, lease_seconds=lease_seconds)
    assert claim is not None, "it was queued"
    return claim


def end_well(
    database: Database,
    *,
    report: Report | None = None,
    tenant: str = TENANT,
    model_id: str | None = None,
    **fields: Any,
) -> str:
    """Queue, claim and finish an inspection; return its id."""
    inspection_id = submit(database, tenant=tenant, model_id=model_id, **fields).id
    claim = take(database, inspection_id)
    with database.write() as session:
        assert leases.finish(
            session, claim.lease, report or make_report(), report_key=f"{inspection_id}.{claim.attempt}"
        )
    return inspection_id


def read(database: Database, inspection_id: str, *, tenant: str = TENANT) -> InspectionRecord:
    with database.read() as session:
        return inspections.get(session, inspection_id, tenant=tenant)


def make_store(directory: Path) -> Store:
    return LocalStore(directory / "store")


def layer(position: int = 0, **fields: Any) -> LayerMeasurement:
    """Return a layer call with a value in every kind of field."""
    given: dict[str, Any] = {
        "depth": position,
        "name": str(position),
        "call": 0,
        "kind": "Linear",
        "parameters": (f"{position}.weight", f"{position}.bias"),
        "output_shape": (128, 256),
        "activation": ActivationStatistics(mean=0.5, std=0.25, rms=0.5, abs_max=1.0),
        "nonlinearity": "sigmoid",
        "signal": SignalStatistics(norm=1e-3 * 0.25**position, rms=1e-5 * 0.25**position),
        "forward_gain": 0.9,
        "backward_gain": 0.25 + position,
        "dead_unit_fraction": 0.0,
    }
    return LayerMeasurement(**(given | fields))


def parameter(position: int = 0, **fields: Any) -> ParameterMeasurement:
    """Return a parameter with a value in every kind of field."""
    given: dict[str, Any] = {
        "name": f"{position}.weight",
        "aliases": ("tied.weight",),
        "layer": str(position),
        "shape": (256, 256),
        "numel": 65536,
        "dtype": "float32",
        "status": "trained",
        "grad_norm": 10.0**-position,
        "grad_quantiles": Quantiles(p01=1e-9, p50=1e-5, p99=1e-3),
        "log2_histogram": Log2Histogram(lowest=-30, counts=(1, 2, 3), zeros=4, sampled=True),
        "zero_fraction": 0.125,
    }
    return ParameterMeasurement(**(given | fields))


def finding(rule: str = "vanishing_signal", **fields: Any) -> Finding:
    given: dict[str, Any] = {
        "rule": rule,
        "severity": "fail",
        "layers": ("0",),
        "value": 1e-9,
        "threshold": 1e-3,
        "message": "the signal vanishes",
        "explanation": "each sigmoid divides it by four",
        "remedy": Remedy(action="change_activation", arguments={"from": "sigmoid", "to": "relu"}),
    }
    return Finding(**(given | fields))


def make_report(
    layers: tuple[LayerMeasurement, ...] = (),
    parameters: tuple[ParameterMeasurement, ...] = (),
    findings: tuple[Finding, ...] = (),
    *,
    verdict: Verdict = "pass",
    parameter_count: int = 10,
) -> Report:
    environment: Mapping[str, Any] = {
        "gradinspect_version": "0",
        "torch_version": "2.13.0",
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "seed": 0,
    }
    summary = Summary(loss=2.3, parameters=parameter_count, layers=len(layers), verdict=verdict)
    return Report(
        model=ModelReference(kind="spec"),
        environment=Environment(**environment),
        summary=summary,
        verdict=verdict,
        findings=findings,
        layers=layers,
        parameters=parameters,
    )


def write_worker(settings: Settings, worker: OneWorker) -> None:
    """Record that a worker is alive."""
    database = Database(settings.database_url)
    with database.write() as session:
        workers.beat(session, worker)
    database.dispose()


def store_bytes(store: Store, pieces: Iterable[bytes], *, tenant: str = TENANT, limit: int, **promise: Any) -> Upload:
    """Receive bytes and keep them. Arguments as for `Artifacts.receive`."""
    with store.artifacts.receive(pieces, tenant=tenant, limit=limit, **promise) as upload:
        upload.keep()
    return upload


def has_bytes(store: Store, digest: str, *, tenant: str = TENANT) -> bool:
    """Return whether the store has the bytes of a digest."""
    try:
        store.artifacts.open(digest, tenant=tenant).close()
    except ProblemError:
        return False
    return True
