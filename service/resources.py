"""Database rows converted to the resources that callers see, for the API and the pages."""

from __future__ import annotations

from gradinspect.contracts.document import from_python
from gradinspect.contracts.report.report import Summary
from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.wire.resources import (
    ActResource,
    ArtifactResource,
    ErrorResource,
    InspectionLinks,
    InspectionResource,
    KeyResource,
    ModelResource,
    PolicyResource,
    Progress,
)
from service.db import policies
from service.db.access.tables import AuditRecord, KeyRecord
from service.db.tables import ArtifactRecord, InspectionRecord, ModelRecord, PolicyRecord


def inspection_resource(record: InspectionRecord) -> InspectionResource:
    """Return an inspection as callers see it."""
    return InspectionResource(
        id=record.id,
        status=record.status,  # type: ignore[arg-type]  # the table allows these words only
        model=record.model_id,
        verdict=record.verdict,  # type: ignore[arg-type]  # written from a report
        progress=Progress(stage=record.stage, fraction=record.fraction),
        summary=Summary.model_validate(record.summary, strict=False) if record.summary is not None else None,
        error=_error(record),
        attempt=record.attempt,
        labels=record.labels,
        policy=record.policy,
        measured_by=record.measured_by,  # type: ignore[arg-type]  # as above
        run=record.run_id,
        step=record.step,
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        links=links_of(record.id),
    )


def links_of(inspection_id: str) -> InspectionLinks:
    """Return the paths of the parts of an inspection."""
    path = f"/v1/inspections/{inspection_id}"
    return InspectionLinks(
        self=path,
        report=f"{path}/report",
        layers=f"{path}/layers",
        parameters=f"{path}/parameters",
        findings=f"{path}/findings",
        lr_scales=f"{path}/lr-scales",
        prescription=f"{path}/prescription",
        events=f"{path}/events",
        page=f"/inspections/{inspection_id}",
    )


def model_resource(record: ModelRecord, *, with_spec: bool = True, spec: ModelSpec | None = None) -> ModelResource:
    """Return a model as callers see it.

    Args:
        with_spec: False in lists, because specs may be large.
        spec: that of the record, where the caller has it; reading a large one again takes as long as the whole request.
    """
    source = record.source()
    if record.document is not None:
        source["input"] = {name: record.document["input"][name] for name in ("shape", "dtype")}
        if not with_spec or spec is not None:
            del source[record.kind]
    about = {
        "id": record.id, "name": record.name, "digest": record.digest, "parameters": record.parameters,
        "created_at": record.created_at.isoformat(),
    }  # fmt: skip
    resource = from_python(ModelResource, about | source, code="invalid_spec")
    return resource if spec is None else resource.model_copy(update={"spec": spec})


def artifact_resource(record: ArtifactRecord) -> ArtifactResource:
    """Return an artifact as callers see it."""
    return ArtifactResource(
        id=record.id,
        kind=record.kind,  # type: ignore[arg-type]  # written by `keep_upload` only
        size_bytes=record.size_bytes,
        created_at=record.created_at,
    )


def policy_resource(record: PolicyRecord) -> PolicyResource:
    """Return a stored policy as callers see it."""
    policy = policies.as_policy(record)
    return PolicyResource(
        id=record.id, name=policy.name, version=policy.version, description=policy.description, rules=policy.rules,
        created_at=record.created_at,
    )  # fmt: skip


def built_in_policy() -> PolicyResource:
    """Return the policy `default`, which has no row."""
    return PolicyResource(
        id=DEFAULT_POLICY.name, name=DEFAULT_POLICY.name, version=DEFAULT_POLICY.version,
        description=DEFAULT_POLICY.description, rules=DEFAULT_POLICY.rules, created_at=None,
    )  # fmt: skip


def key_resource(record: KeyRecord) -> KeyResource:
    """Return a key as its tenant's admins see it."""
    return KeyResource(
        id=record.id,
        name=record.name,
        tenant=record.tenant_id,
        scopes=tuple(record.scopes),  # type: ignore[arg-type]  # written from `Scope` only
        created_at=record.created_at,
        expires_at=record.expires_at,
        last_used_at=record.last_used_at,
    )


def act_resource(record: AuditRecord) -> ActResource:
    """Return an act as its tenant's admins see it."""
    return ActResource(
        id=record.id, at=record.created_at, key=record.key_id, action=record.action, object=record.object,
        address=record.address, status=record.status, code=record.code, request_id=record.request_id,
    )  # fmt: skip


def _error(record: InspectionRecord) -> ErrorResource | None:
    if record.error_code is None:
        return None
    return ErrorResource(code=record.error_code, detail=record.error_detail or "", attempt=record.error_attempt or 0)
