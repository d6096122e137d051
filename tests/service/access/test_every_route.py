"""A walk over all routes with every role: no key, read, submit, admin, an admin of another tenant, the operator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any  # Any: arguments of a request

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient

from service.context import SCOPES, Context, Scope
from service.db import inspections, models, policies
from service.db.access import keys
from tests.support.callers import REQUEST, SPEC, problem
from tests.support.tenants import OWNER, Belongings, bearer, make_belongings, make_key

# The scope that each route needs, None for all callers. A new route fails until it is listed here.
SCOPE_OF: dict[tuple[str, str], Scope | None] = {
    ("GET", "/static/<path:filename>"): None, ("GET", "/docs/static/<path:filename>"): None,
    ("GET", "/assets/<digest>/<name>"): None, ("GET", "/healthz"): None, ("GET", "/readyz"): None,
    ("GET", "/openapi.json"): None, ("GET", "/docs"): None, ("GET", "/login"): None, ("POST", "/login"): None,
    ("POST", "/logout"): None,
    ("GET", "/runs"): "read", ("GET", "/runs/<run_id>"): "read",
    ("GET", "/"): "read", ("GET", "/inspections/<inspection_id>"): "read", ("GET", "/compare"): "read",
    ("GET", "/v1/artifacts/<artifact_id>"): "read", ("GET", "/v1/models"): "read",
    ("GET", "/v1/models/<model_id>"): "read", ("GET", "/v1/inspections"): "read",
    ("GET", "/v1/inspections/<inspection_id>"): "read", ("GET", "/v1/inspections/<inspection_id>/report"): "read",
    ("GET", "/v1/inspections/<inspection_id>/findings"): "read",
    ("GET", "/v1/inspections/<inspection_id>/lr-scales"): "read",
    ("GET", "/v1/inspections/<inspection_id>/prescription"): "read",
    ("GET", "/v1/inspections/<inspection_id>/layers"): "read",
    ("GET", "/v1/inspections/<inspection_id>/parameters"): "read",
    ("GET", "/v1/inspections/<inspection_id>/events"): "read", ("GET", "/v1/layers"): "read",
    ("GET", "/v1/parameters"): "read", ("GET", "/v1/comparisons"): "read", ("GET", "/v1/policies"): "read",
    ("GET", "/v1/runs"): "read", ("GET", "/v1/runs/<run_id>"): "read", ("POST", "/v1/runs"): "submit",
    ("POST", "/v1/runs/<run_id>/end"): "submit", ("DELETE", "/v1/runs/<run_id>"): "submit",
    ("POST", "/v1/reports"): "submit",
    ("GET", "/v1/policies/<policy_id>"): "read", ("GET", "/v1/usage"): "read",
    ("PUT", "/v1/artifacts/<artifact_id>"): "submit", ("POST", "/v1/artifacts"): "submit",
    ("DELETE", "/v1/artifacts/<artifact_id>"): "submit", ("POST", "/v1/models"): "submit",
    ("DELETE", "/v1/models/<model_id>"): "submit", ("POST", "/v1/models:validate"): "submit",
    ("POST", "/v1/inspections"): "submit", ("DELETE", "/v1/inspections/<inspection_id>"): "submit",
    ("POST", "/v1/inspections/<inspection_id>/cancel"): "submit", ("POST", "/v1/policies"): "submit",
    ("DELETE", "/v1/policies/<policy_id>"): "submit",
    ("GET", "/metrics"): "admin", ("GET", "/v1/keys"): "admin", ("POST", "/v1/keys"): "admin",
    ("DELETE", "/v1/keys/<key_id>"): "admin", ("GET", "/v1/audit-log"): "admin",
}  # fmt: skip
# What is needed beyond the path: these requests succeed for their owner.
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/models"): {"json": {"spec": SPEC}}, ("POST", "/v1/models:validate"): {"json": {"spec": SPEC}},
    ("POST", "/v1/inspections"): {"json": REQUEST}, ("POST", "/v1/policies"): {"json": {"name": "new"}},
    ("POST", "/v1/keys"): {"json": {"name": "new"}}, ("POST", "/v1/runs"): {"json": {"name": "new"}},
    ("POST", "/v1/runs/<run_id>/end"): {"json": {"outcome": "completed"}},
}  # fmt: skip
# Of tenant `default` only, because it is about all tenants.
OPERATOR = {("GET", "/metrics")}
ROLES: tuple[Scope, ...] = SCOPES


def routes(app: APIFlask) -> Iterator[tuple[str, str]]:
    """Yield method and rule of every route but HEAD and OPTIONS."""
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield method, rule.rule


def call(client: FlaskClient, route: tuple[str, str], mine: Belongings, key: str | None, method: str = "") -> Any:
    """Call a route with ids that the owner has."""
    path = route[1]
    values = asdict(mine) | {"path:filename": "nothing.css", "digest": "0", "name": "pages.css"}
    for name, value in values.items():
        path = path.replace(f"<{name}>", value)
    query = (
        {"base": mine.inspection_id, "head": mine.inspection_id} if path.endswith(("compare", "comparisons")) else {}
    )
    headers = bearer(key) if key is not None else {}
    return client.open(path, method=method or route[0], query_string=query, headers=headers, **BODIES.get(route, {}))


def test_every_route_declares_its_scope(keyed_app: APIFlask) -> None:
    assert set(routes(keyed_app)) == set(SCOPE_OF), "list a new route here, with the scope that it needs"


def test_every_route_refuses_callers_without_a_key_and_with_a_smaller_scope(
    keyed_app: APIFlask, keyed: FlaskClient, here: Context
) -> None:
    mine = make_belongings(here)
    held = {scope: make_key(here, scope) for scope in ROLES}
    for route in routes(keyed_app):
        needed = SCOPE_OF[route]
        if needed is None:
            assert call(keyed, route, mine, None).status_code in (200, 303, 401 if "login" in route[1] else 404), route
            continue
        refused = call(keyed, route, mine, None)
        assert refused.status_code == 401, route
        assert refused.headers["WWW-Authenticate"].startswith("Bearer"), route
        assert OWNER not in refused.get_data(as_text=True), route
        if route[0] == "GET":
            assert call(keyed, route, mine, None, "HEAD").status_code == 401, route
        for scope in ROLES[: ROLES.index(needed)]:
            problem(call(keyed, route, mine, held[scope]), "missing_scope")


def test_every_route_hides_what_another_tenant_owns(keyed_app: APIFlask, keyed: FlaskClient, here: Context) -> None:
    mine = make_belongings(here)
    for tenant in ("rival", "default"):
        key = make_key(here, "admin", tenant=tenant)
        for route in routes(keyed_app):
            if SCOPE_OF[route] is None or route in OPERATOR:
                continue
            answer = call(keyed, route, mine, key)
            text = answer.get_data(as_text=True)
            if route == ("PUT", "/v1/artifacts/<artifact_id>"):
                assert answer.status_code == 411, route  # uploads are of the caller's tenant; this one has no body
            elif "<" in route[1] or route[1] in ("/v1/comparisons", "/compare"):
                assert answer.status_code == 404, (route, text)
            elif route[1] != "/v1/audit-log":  # names the ids that its tenant's own callers tried
                assert mine.inspection_id not in text, route
                assert mine.model_id not in text, route
                assert mine.key_id not in text, route
    with here.database.read() as session:
        inspections.get(session, mine.inspection_id, tenant=OWNER)
        models.get(session, mine.model_id, tenant=OWNER)
        policies.get(session, mine.policy_id, tenant=OWNER)
        assert keys.usable(session, mine.key_id) is not None


@pytest.mark.parametrize("scope", ROLES)
def test_every_route_serves_the_owner_with_the_scope(
    keyed_app: APIFlask, keyed: FlaskClient, here: Context, scope: Scope
) -> None:
    mine = make_belongings(here)
    key = make_key(here, scope)
    allowed = [
        one for one in routes(keyed_app) if (needed := SCOPE_OF[one]) and ROLES.index(needed) <= ROLES.index(scope)
    ]
    for route in sorted(allowed, key=lambda one: one[0] == "DELETE"):  # deleted last
        answer = call(keyed, route, mine, key)
        if route in OPERATOR:
            problem(answer, "missing_scope")
        else:
            # 409: what has ended, or is used, cannot be changed; 4xx of uploads: no body was sent.
            assert answer.status_code in (200, 201, 202, 204, 409, 411, 415, 422), (
                route,
                answer.get_data(as_text=True),
            )


def test_only_the_operator_reads_the_metrics_of_all_tenants(keyed: FlaskClient, here: Context) -> None:
    problem(keyed.get("/metrics", headers=bearer(make_key(here, "admin"))), "missing_scope")
    assert keyed.get("/metrics", headers=bearer(make_key(here, "admin", tenant="default"))).status_code == 200
