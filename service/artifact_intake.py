"""From arriving bytes to an accepted artifact: received, recognised, checked without torch, kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from sqlalchemy.orm import Session

from gradinspect.contracts.model_spec import ModelSpec
from gradinspect.contracts.plan import Call
from gradinspect.contracts.problems import FieldError, ProblemError
from service import artifacts
from service.artifact_files import Upload
from service.db import artifacts as rows
from service.db.engine import Database
from service.db.tables import ArtifactRecord
from service.storage import Store

Kind = Literal["torchscript", "safetensors", "unknown"]


def keep_upload(
    database: Database,
    store: Store,
    pieces: Iterable[bytes],
    *,
    tenant: str,
    limit: int,
    expected_digest: str | None = None,
    expected_length: int | None = None,
    only: Kind | None = None,
) -> tuple[ArtifactRecord, bool]:
    """Take bytes in, look at them, and keep them; returns the row, and whether it is new.

    Args:
        pieces: the bytes as they arrive; read to the end.
        limit: most bytes.
        expected_digest, expected_length: what the sender promised.
        only: refuse every other kind.

    Raises:
        ProblemError: `invalid_model`, `unsupported_operator` or `invalid_data` for a file that claims to be what it is
            not; else as `ArtifactFiles.receive`. Then nothing was kept.
    """
    with store.artifacts.receive(
        pieces, tenant=tenant, limit=limit, expected_digest=expected_digest, expected_length=expected_length
    ) as upload:
        kind = _checked_kind(upload)
        if only is not None and kind != only:
            raise ProblemError("invalid_model", f"the file is {kind}, not {only}")
        return artifacts.keep(database, upload, tenant=tenant, kind=kind)


def check_weights(session: Session, store: Store, artifact_id: str, spec: ModelSpec, *, tenant: str) -> None:
    """Hold uploaded weights against the parameters that a spec would build.

    Raises:
        ProblemError: `not_found`; `invalid_data`, naming the first tensors that are missing or of another shape.
    """
    from gradinspect.intake import check_safetensors

    record = rows.hold(session, artifact_id, tenant=tenant)
    if record.kind != "safetensors":
        raise _wrong_weights(f"{artifact_id} is {record.kind}, not safetensors")
    with store.artifacts.open(artifact_id, tenant=tenant) as file:
        held = {tensor.name: tuple(tensor.shape) for tensor in check_safetensors(file).tensors}
    for name, shape in _expected_shapes(spec).items():
        if name not in held:
            raise _wrong_weights(f"the file has no tensor {name!r}, which the spec would load")
        if held[name] != shape:
            raise _wrong_weights(f"{name!r} has shape {list(held[name])}; the spec's has {list(shape)}")


def _checked_kind(upload: Upload) -> Kind:
    from gradinspect.intake import check_safetensors, check_torchscript, recognise

    with upload.path.open("rb") as file:
        kind: Kind = recognise(file)
        if kind == "torchscript":
            check_torchscript(file)
        elif kind == "safetensors":
            check_safetensors(file)
    return kind


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
