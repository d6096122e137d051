"""API keys: made, listed and revoked by admins, each within one tenant."""

from __future__ import annotations

from typing import Annotated

from apiflask import APIBlueprint
from pydantic import Field
from werkzeug.wrappers import Response

from gradinspect.contracts.problems import FieldError, ProblemError
from gradinspect.contracts.wire.resources import KeyRequest, KeyResource, NewKeyResource, Page, Tenant
from service.api.http.answers import json_answer
from service.api.http.operations import Answer, operation
from service.api.http.paging import page_answer
from service.context import caller, context
from service.db.access import keys
from service.db.lists import overviews
from service.query_strings import PageQuery, Query
from service.resources import key_resource

EXAMPLE = {"name": "continuous integration", "scopes": ["submit"]}

blueprint = APIBlueprint("keys", __name__, tag="access")

OtherTenant = Annotated[Tenant | None, Field(description="Another tenant than the caller's: for the operator.")]


class TenantQuery(Query):
    """The tenant of the key."""

    tenant: OtherTenant = None


class KeyListQuery(PageQuery):
    """The parameters of the list of keys."""

    tenant: OtherTenant = None


@blueprint.post("/v1/keys")
@operation(
    scope="admin",
    body=KeyRequest,
    answers=[Answer(201, "The key, shown this once.", NewKeyResource, headers=["Location"])],
    example=EXAMPLE,
)
def create_key(body: KeyRequest) -> Response:
    """Make a key. The operator (an admin of the tenant `default`) may make one for any tenant."""
    owner = tenant_of(body.tenant)
    with context().database.write() as session:
        if body.expires_at is not None and body.expires_at.tzinfo is None:
            raise _wrong_expiry("is a time with its zone, such as 2027-01-31T12:00:00Z")
        if body.expires_at is not None and body.expires_at <= overviews.now(session):
            raise _wrong_expiry("is in the past")
        made = keys.insert(session, tenant=owner, name=body.name, scopes=body.scopes, expires_at=body.expires_at)
    resource = NewKeyResource(**key_resource(made.record).model_dump(), key=made.text)
    return json_answer(resource, 201, {"Location": f"/v1/keys/{made.record.id}", "Cache-Control": "no-store"})


@blueprint.get("/v1/keys")
@operation(
    scope="admin",
    query=KeyListQuery,
    answers=[
        Answer(200, "One page of keys, newest first, without their secrets.", Page[KeyResource], headers=["Link"])
    ],
)
def list_keys(query: KeyListQuery) -> Response:
    """List the keys that are not revoked, newest first."""
    with context().database.read() as session:
        found = keys.page(session, query, tenant=tenant_of(query.tenant))
    items = [key_resource(record) for record in found.items]
    return page_answer(Page[KeyResource](items=items, next_cursor=found.next_cursor), found.next_cursor)


@blueprint.delete("/v1/keys/<key_id>")
@operation(scope="admin", query=TenantQuery, answers=[Answer(204, "The key and its logins have ended.")])
def revoke_key(key_id: str, query: TenantQuery) -> Response:
    """Revoke a key at once and for good."""
    with context().database.write() as session:
        keys.revoke(session, key_id, tenant=tenant_of(query.tenant))
    return Response(status=204)


def tenant_of(requested: str | None) -> str:
    """Return the tenant that a request is about.

    Raises:
        ProblemError: `missing_scope`, it is another one and the caller is not the operator.
    """
    asking = caller()
    if requested is None or requested == asking.tenant:
        return asking.tenant
    if not asking.is_operator:
        raise ProblemError("missing_scope", "only an admin of the tenant 'default' may name another tenant")
    return requested


def _wrong_expiry(detail: str) -> ProblemError:
    return ProblemError("invalid_request", f"expires_at {detail}", errors=[FieldError("/expires_at", detail)])
