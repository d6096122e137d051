"""Policies: named thresholds of the rules. `default` is built in."""

from __future__ import annotations

from typing import Annotated, Literal

from apiflask import APIBlueprint
from pydantic import Field
from werkzeug.wrappers import Response

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.policy import DEFAULT_POLICY, Policy
from gradinspect.contracts.wire.resources import Page, PolicyResource
from gradinspect.rules import check_policy, complete
from service.api.http.answers import json_answer
from service.api.http.operations import Answer, operation
from service.api.http.paging import page_answer
from service.api.http.reading import JSON, best_of
from service.context import context, tenant
from service.db import policies
from service.query_strings import Query
from service.resources import built_in_policy, policy_resource

FILE = "application/vnd.gradinspect.policy+json"

blueprint = APIBlueprint("policies", __name__, tag="policies")


class PolicyQuery(Query):
    """The form of the answer."""

    format: Annotated[
        Literal["json", "file"],
        Field(
            description="`file`: every rule with the thresholds that hold, as `gradinspect audit --policy` reads it."
        ),
    ] = "json"


@blueprint.get("/v1/policies")
@operation(scope="read", answers=[Answer(200, "Every policy, in one page.", Page[PolicyResource])])
def list_policies() -> Response:
    """List the built-in policy and all others, by name, newest version first."""
    with context().database.read() as session:
        stored = policies.list_all(session, tenant=tenant())
    return page_answer(Page[PolicyResource](items=[built_in_policy(), *map(policy_resource, stored)]), None)


@blueprint.post("/v1/policies")
@operation(
    scope="submit",
    body=Policy,
    answers=[Answer(201, "The policy is stored.", PolicyResource, headers=["Location"])],
    problems=["conflict"],
    example={"name": "strict", "rules": {"vanishing_signal": {"warn": 0.01, "fail": 1e-4}}},
)
def create_policy(body: Policy) -> Response:
    """Store a policy. A name may have many versions; the newest one counts."""
    with context().database.write() as session:
        record = policies.insert(session, check_policy(body), tenant=tenant())
    return json_answer(policy_resource(record), 201, {"Location": f"/v1/policies/{record.id}"})


@blueprint.get("/v1/policies/<policy_id>")
@operation(
    scope="read",
    query=PolicyQuery,
    answers=[Answer(200, "The policy; as a file it is the document alone.", PolicyResource, other=[FILE])],
)
def get_policy(policy_id: str, query: PolicyQuery) -> Response:
    """Return one policy."""
    policy, resource = _find(policy_id)
    if query.format != "file" and best_of([JSON, FILE]) == JSON:
        return json_answer(resource)
    name = f"{policy.name.replace(' ', '-')}-{policy.version}.json"
    text = complete(policy).model_dump_json(indent=2, exclude_unset=True)
    return Response(text, mimetype=FILE, headers={"Content-Disposition": f'attachment; filename="{name}"'})


@blueprint.delete("/v1/policies/<policy_id>")
@operation(scope="submit",
    answers=[Answer(204, "It is gone; inspections keep the copy they were judged by.")], problems=["conflict"]
)  # fmt: skip
def delete_policy(policy_id: str) -> Response:
    """Delete a policy."""
    if policy_id == DEFAULT_POLICY.name:
        raise ProblemError("conflict", "the policy 'default' is built in and cannot be deleted")
    with context().database.write() as session:
        policies.delete(session, policy_id, tenant=tenant())
    return Response(status=204)


def _find(policy_id: str) -> tuple[Policy, PolicyResource]:
    if policy_id == DEFAULT_POLICY.name:
        return DEFAULT_POLICY, built_in_policy()
    with context().database.read() as session:
        record = policies.get(session, policy_id, tenant=tenant())
    return policies.as_policy(record), policy_resource(record)
