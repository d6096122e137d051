"""Queued inspections of specs and uploads, and waiting for conditions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from gradinspect.contracts.document import from_python
from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.contracts.request.request import InspectionRequest
from gradinspect.contracts.sources import SpecSource, TorchScriptSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.tensors import SampleInput
from service.db import inspections, models
from service.db.engine import Database
from service.db.tables import InspectionRecord
from service.lifecycle import artifacts
from service.store.storage import Store
from tests.support.specimens import TENANT

SPEC: dict[str, Any] = {
    "input": {"shape": [4]},
    "layers": [{"type": "Linear", "out_features": 8}, {"type": "ReLU"}, {"type": "Linear", "out_features": 3}],
}


def queue_spec(database: Database, spec: dict[str, Any] = SPEC, **fields: Any) -> InspectionRecord:
    """Queue the inspection of a spec without publishing it; without a trial, which only takes time here."""
    request = from_python(InspectionRequest, {"model": {"spec": spec}, "trial": "off", **fields})
    with database.write() as session:
        model = models.register_inline(session, SpecSource(spec=from_python(ModelSpec, spec)), tenant=TENANT)
        return inspections.insert(
            session, request, tenant=TENANT, model=model, policy=DEFAULT_POLICY, queue="cpu", max_queued=1000
        )


def queue_upload(database: Database, store: Store, file: bytes) -> InspectionRecord:
    """Queue the inspection of a TorchScript file with four inputs per sample, without the static check."""
    digest = f"sha256:{hashlib.sha256(file).hexdigest()}"
    with store.artifacts.receive([file], tenant=TENANT, limit=2**30) as upload:
        artifacts.keep(database, upload, tenant=TENANT, kind="torchscript")
    source = TorchScriptSource(torchscript=digest, input=SampleInput(shape=(4,)))
    with database.write() as session:
        model = models.register(session, source, tenant=TENANT, name=None)
        request = from_python(InspectionRequest, {"model": model.id, "trial": "off"})
        return inspections.insert(
            session, request, tenant=TENANT, model=model, policy=DEFAULT_POLICY, queue="cpu", max_queued=1000
        )


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Poll until a condition holds."""
    deadline = monotonic() + seconds
    while not holds():
        assert monotonic() < deadline, f"waited {seconds} s in vain until {what}"
        sleep(0.02)


def report_files(store_dir: Path) -> set[str]:
    """Return the keys of all reports on disk."""
    return {path.name.removesuffix(".json.gz") for path in (store_dir / "reports").glob("*/*")}
