"""Artifacts from the first byte to the row: receive, recognise, check without torch, keep."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.request.data import ArtifactData
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.plan import Call
from gradinspect.intake import check_safetensors, check_upload
from service.db import artifacts as rows
from service.db.engine import Database
from service.db.tables import ArtifactRecord
from service.lifecycle import artifacts
from service.store.storage import Store


def keep_upload(
    database: Database,
    store: Store,
    pieces: Iterable[bytes],
    *,
    tenant: str,
    limit: int,
    expected_digest: str | None = None,
    expected_length: int | None = None,
    must_be_model: bool = False,
) -> tuple[ArtifactRecord, bool]:
    """Receive an upload, check it and keep it; return the row and whether it is new.

    Args:
        database: gets the row.
        store: gets the bytes.
        pieces: the bytes as they arrive; read to the end.
        tenant: owner of the artifact.
        limit: largest number of bytes.
        expected_digest: `sha256:…` that the sender promised.
        expected_length: number of bytes that the sender promised.
        must_be_model: refuse any other file, with advice.

    Raises:
        ProblemError: `invalid_model`, `unsupported_operator` or `invalid_data` for a file that is not what it claims to
            be; else as `Artifacts.receive`. Nothing was kept.
    """
    with store.artifacts.receive(
        pieces, tenant=tenant, limit=limit, expected_digest=expected_digest, expected_length=expected_length
    ) as upload:
        with upload.open() as file:
            kind = check_upload(file, must_be_model=must_be_model)
        return artifacts.keep(database, upload, tenant=tenant, kind=kind)


def check_weights(session: Session, store: Store, artifact_id: str, spec: ModelSpec, *, tenant: str) -> None:
    """Compare uploaded weights with the parameters that a spec would build.

    Raises:
        ProblemError: `not_found`; `invalid_data`, naming the first tensors that are missing or of another shape.
    """
    record = rows.hold(session, artifact_id, tenant=tenant)
    if record.kind != "safetensors":
        raise _wrong_weights(f"{artifact_id} is {record.kind}, not safetensors")
    with store.artifacts.open(artifact_id, tenant=tenant) as file:
        shapes = {tensor.name: tensor.shape for tensor in check_safetensors(file).tensors}
    for name, shape in _expected_shapes(spec).items():
        if name not in shapes:
            raise _wrong_weights(f"the file has no tensor {name!r}, which the spec would load")
        if shapes[name] != shape:
            raise _wrong_weights(f"{name!r} has shape {list(shapes[name])}; the spec's has {list(shape)}")


def check_data(database: Database, store: Store, data: ArtifactData, *, tenant: str) -> None:
    """Check that the uploaded file has the tensors that a request names.

    Raises:
        ProblemError: `invalid_request`, naming the artifact or the tensor; `invalid_data` for another kind of file;
            `not_found` if the store has lost the bytes.
    """
    with database.read() as session:
        if not rows.is_known(session, data.artifact, tenant=tenant):
            raise _wrong_field("/data/artifact", f"there is no artifact {data.artifact}; upload it first")
    with store.artifacts.open(data.artifact, tenant=tenant) as file:
        shapes = {tensor.name: tensor.shape for tensor in check_safetensors(file).tensors}
    named = [(f"/data/inputs/{index}", name) for index, name in enumerate(data.inputs)]
    named += [("/data/target", data.target)] if data.target is not None else []
    for pointer, name in named:
        if name not in shapes:
            available = ", ".join(sorted(shapes)[:10]) or "none"
            raise _wrong_field(pointer, f"the file has no tensor {name[:80]!r}; it has {available}")
        if not shapes[name]:
            raise _wrong_field(pointer, f"{name!r} has no axis; the first one counts samples")
        if shapes[name][0] != shapes[data.inputs[0]][0]:
            counts = f"{shapes[name][0]} samples, and {data.inputs[0]!r} has {shapes[data.inputs[0]][0]}"
            raise _wrong_field(pointer, f"{name!r} has {counts}; all must have the same number")


def _expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    calls = [step for step in spec.plan.calls() if isinstance(step, Call)]
    return {
        f"{call.path}.{name}": shape
        for call in calls
        for name, shape in call.parameters.items()
        if not (name == "weight" and call.tied_to is not None)
    }


def _wrong_weights(detail: str) -> ProblemError:
    return ProblemError("invalid_data", detail, errors=[FieldError("/weights", detail)])


def _wrong_field(pointer: str, detail: str) -> ProblemError:
    return ProblemError("invalid_request", detail, errors=[FieldError(pointer, detail)])
