"""Models: register a spec or an uploaded file, list, read, delete; check a spec without registering it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from apiflask import APIBlueprint
from pydantic import Discriminator, RootModel, Tag
from werkzeug.wrappers import Response

from gradinspect.contracts.document import Document, ModelName, from_python, parse_strict_json, refuse_many_values
from gradinspect.contracts.sources import FileSource, SpecSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.wire.resources import ModelRegistration, ModelResource, Page, SpecDescription
from gradinspect.contracts.wire.spec_description import describe_spec
from service.api.artifacts import refuse_unconfined, upload_slot
from service.api.http.answers import json_answer
from service.api.http.forms import MULTIPART, receive_form
from service.api.http.operations import Answer, operation
from service.api.http.paging import page_answer
from service.api.inspections import EXAMPLE
from service.context import context, tenant
from service.db import models
from service.db.lists import queries
from service.db.lists.queries import ModelListQuery
from service.db.tables import ArtifactRecord, ModelRecord
from service.lifecycle.artifact_intake import check_weights, keep_upload
from service.lifecycle.references import named_at
from service.resources import model_resource

FORM = {
    "type": "object",
    "properties": {
        "file": {
            "type": "string",
            "contentMediaType": "application/octet-stream",
            "description": "A .pt2 or TorchScript file",
        },
        "name": {"type": "string"},
        "input": {"type": "string", "description": 'JSON: {"shape": [784], "dtype": "float32"}, without the batch'},
    },
    "required": ["file"],
    "additionalProperties": False,
}

blueprint = APIBlueprint("models", __name__, tag="models")


class NamedSpec(Document):
    """A spec as `POST /v1/models` takes it."""

    name: ModelName | None = None
    spec: ModelSpec


def _form_of(given: object) -> str:
    return "bare" if isinstance(given, dict) and "spec" not in given and "layers" in given else "named"


class SpecToCheck(
    RootModel[
        Annotated[Annotated[NamedSpec, Tag("named")] | Annotated[ModelSpec, Tag("bare")], Discriminator(_form_of)]
    ]
):
    """A spec as `POST /v1/models` takes it, or the spec alone."""

    @property
    def spec(self) -> ModelSpec:
        """The spec, in whichever form it came."""
        return self.root.spec if isinstance(self.root, NamedSpec) else self.root


@blueprint.post("/v1/models")
@operation(scope="submit", rate="uploads",
    body=ModelRegistration,
    other_bodies={MULTIPART: FORM},
    answers=[Answer(201, "The model is registered.", ModelResource, headers=["Location"])],
    problems=[
        "invalid_spec", "invalid_model", "unsupported_operator", "invalid_data", "length_required",
        "quota_exceeded", "too_many_requests", "uploads_disabled", "disk_full",
    ],
    example={"name": "ten sigmoid layers", "spec": EXAMPLE["model"]["spec"]},
)  # fmt: skip
def register_model(body: ModelRegistration | None) -> Response:
    """Register a spec, an uploaded .pt2 or TorchScript file, or (multipart) a file sent along."""
    registration = body if body is not None else _received_registration()
    record = _register(registration)
    resource = model_resource(record, spec=registration.spec)
    return json_answer(resource, 201, {"Location": f"/v1/models/{record.id}"})


@blueprint.get("/v1/models")
@operation(scope="read",
    query=ModelListQuery,
    answers=[
        Answer(
            200, "One page of models, newest first; specs are left out.", Page[ModelResource], headers=["Link"]
        )
    ],
)  # fmt: skip
def list_models(query: ModelListQuery) -> Response:
    """List models, newest first."""
    with context().database.read() as session:
        found = queries.models(session, query, tenant=tenant())
    items = [model_resource(record, with_spec=False) for record in found.items]
    return page_answer(Page[ModelResource](items=items, next_cursor=found.next_cursor), found.next_cursor)


@blueprint.get("/v1/models/<model_id>")
@operation(scope="read", answers=[Answer(200, "The model.", ModelResource)])
def get_model(model_id: str) -> Response:
    """Return one model."""
    with context().database.read() as session:
        return json_answer(model_resource(models.get(session, model_id, tenant=tenant())))


@blueprint.delete("/v1/models/<model_id>")
@operation(scope="submit", answers=[Answer(204, "It is deleted; inspections that ended stay.")], problems=["in_use"])
def delete_model(model_id: str) -> Response:
    """Delete a model."""
    with context().database.write() as session:
        models.delete(session, model_id, tenant=tenant())
    return Response(status=204)


@blueprint.post("/v1/models:validate")
@operation(
    scope="submit",
    body=SpecToCheck,
    answers=[Answer(200, "What the spec would build.", SpecDescription)],
    problems=["invalid_spec"],
    example={"spec": EXAMPLE["model"]["spec"]},
)
def validate_spec(body: SpecToCheck) -> Response:
    """Check a spec: layers, shapes, parameters and memory. Nothing is stored or queued."""
    return json_answer(describe_spec(body.spec))


def _register(registration: ModelRegistration) -> ModelRecord:
    source = registration.source
    if isinstance(source, FileSource):
        refuse_unconfined()
    with context().database.write() as session:
        if isinstance(source, SpecSource) and source.weights is not None:
            with named_at("/weights"):
                check_weights(session, context().store, source.weights, source.spec, tenant=tenant())
        with named_at(f"/{source.kind}"):
            return models.register(session, source, tenant=tenant(), name=registration.name)


def _received_registration() -> ModelRegistration:
    """Take a multipart body: keep its file, and read the rest as the registration that would follow."""

    def keep(pieces: Iterator[bytes]) -> ArtifactRecord:
        record, _ = keep_upload(
            context().database, context().store, pieces, tenant=tenant(), limit=limit, must_be_model=True
        )
        return record

    limit = context().settings.max_upload_bytes
    with upload_slot():
        form = receive_form(limit, keep, fields=("name", "input"))
    given: dict[str, Any] = {form.file.kind: form.file.id} | {  # Any: JSON
        name: _parsed(text) if name == "input" else text for name, text in form.fields.items()
    }
    return from_python(ModelRegistration, given)


def _parsed(text: str) -> Any:  # Any: JSON
    refuse_many_values(text.encode())
    return parse_strict_json(text)
