"""The audit log, for admins: who did what to which object, when, from where, with which result."""

from __future__ import annotations

from apiflask import APIBlueprint
from werkzeug.wrappers import Response

from gradinspect.contracts.wire.resources import ActResource, Page
from service.api.http.operations import Answer, operation
from service.api.http.paging import page_answer
from service.api.keys import OtherTenant, tenant_of
from service.context import context
from service.db.access import audit
from service.resources import act_resource

blueprint = APIBlueprint("audit_log", __name__, tag="access")


class AuditLogQuery(audit.AuditQuery):
    """The parameters of the audit log."""

    tenant: OtherTenant = None


@blueprint.get("/v1/audit-log")
@operation(
    scope="admin",
    query=AuditLogQuery,
    answers=[Answer(200, "One page of acts, newest first.", Page[ActResource], headers=["Link"])],
)
def list_acts(query: AuditLogQuery) -> Response:
    """List changes, refusals for a missing scope, and logins, newest first."""
    with context().database.read() as session:
        found = audit.acts(session, query, tenant=tenant_of(query.tenant))
    items = [act_resource(record) for record in found.items]
    return page_answer(Page[ActResource](items=items, next_cursor=found.next_cursor), found.next_cursor)
