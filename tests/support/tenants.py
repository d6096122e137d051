"""Keys of several tenants, and what one tenant owns, for tests of access."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from gradinspect.contracts.report.report import ModelReference
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.wire.runs import RunRequest
from gradinspect.rules import judge
from gradinspect.testing.measurements import chain
from service.context import Context, Scope
from service.db import policies, runs
from service.db.access import keys
from service.lifecycle import artifacts
from service.lifecycle.delivery import deliver
from tests.support.specimens import submit, take

OWNER = "acme"


def make_key(here: Context, scope: Scope, *, tenant: str = OWNER, name: str = "test") -> str:
    """Make a key and return it whole."""
    with here.database.write() as session:
        return keys.insert(session, tenant=tenant, name=name, scopes=[scope]).text


def bearer(key: str) -> dict[str, str]:
    """Return the header that sends a key."""
    return {"Authorization": f"Bearer {key}"}


@dataclass(frozen=True)
class Belongings:
    """Ids of what one tenant owns, by the name of the parameter in a route."""

    inspection_id: str
    model_id: str
    artifact_id: str
    policy_id: str
    key_id: str
    run_id: str


def make_belongings(here: Context, *, tenant: str = OWNER) -> Belongings:
    """Make one of each kind of resource: an inspection that ended well, its model, an artifact, a policy, a key."""
    record = submit(here.database, tenant=tenant)
    claim = take(here.database, record.id)
    report = judge(
        chain((0.1,) * 3), policy=Policy(name="p"), model=ModelReference(kind="spec"), inspection=record.id,
        settings=InspectionSettings(),
    )  # fmt: skip
    assert deliver(here.database, here.store, claim, report)
    content = tenant.encode()
    with here.store.artifacts.receive([content], tenant=tenant, limit=100) as upload:
        artifacts.keep(here.database, upload, tenant=tenant, kind="safetensors")
    with here.database.write() as session:
        policy = policies.insert(session, Policy(name="strict"), tenant=tenant)
        run = runs.insert(session, RunRequest(name="series"), tenant=tenant)
        key = keys.insert(session, tenant=tenant, name="spare", scopes=["read"])
    return Belongings(
        inspection_id=record.id, model_id=record.model_id, artifact_id=f"sha256:{hashlib.sha256(content).hexdigest()}",
        policy_id=policy.id, key_id=key.record.id, run_id=run.id,
    )  # fmt: skip
