"""How much of its quotas and rates a caller has used."""

from __future__ import annotations

from apiflask import APIBlueprint
from werkzeug.wrappers import Response

from gradinspect.contracts.wire.resources import QuotaResource, RateResource, UsageResource
from service.api.http.answers import json_answer
from service.api.http.operations import Answer, operation
from service.context import SCOPES, caller, context
from service.db import inspections
from service.db.access import quotas

blueprint = APIBlueprint("usage", __name__, tag="access")


@blueprint.get("/v1/usage")
@operation(scope="read", answers=[Answer(200, "Quotas of the tenant, rates of the key.", UsageResource)])
def get_usage() -> Response:
    """Return the limits that hold for the caller, and what is left of them."""
    here, asking = context(), caller()
    with here.database.read() as session:
        counts = inspections.count_by_status(session, tenant=asking.tenant).counts
        stored = quotas.stored_bytes(session, tenant=asking.tenant)
    rates = (
        here.rates.standings(tenant=asking.tenant, key_id=asking.key_id) if asking.key_id is not None else []
    )  # fmt: skip
    settings = here.settings
    return json_answer(
        UsageResource(
            tenant=asking.tenant,
            key=asking.key_id,
            scopes=tuple(scope for scope in SCOPES if asking.may(scope)),
            quotas=(
                QuotaResource(name="queued", used=counts["queued"], limit=settings.max_queued),
                QuotaResource(name="running", used=counts["running"], limit=settings.max_running),
                QuotaResource(name="stored_bytes", used=stored, limit=settings.max_stored_bytes),
            ),
            rates=tuple(
                RateResource(
                    name=one.rate, applies_to=one.payer, limit=one.limit, window_seconds=one.window_seconds,
                    remaining=one.remaining, reset_seconds=one.reset_seconds,
                )
                for one in rates
            ),
        )
    )  # fmt: skip
