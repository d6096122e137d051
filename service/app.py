"""The WSGI application: blueprints of the API and of the pages, put together. gunicorn calls `create_app`."""

from __future__ import annotations

from typing import Any

from apiflask import APIFlask

from gradinspect.version import __version__
from service.access.guard import guard_requests
from service.api import (
    artifacts,
    audit_log,
    comparisons,
    events,
    health,
    inspections,
    keys,
    models,
    policies,
    pushes,
    reports,
    rows,
    runs,
    usage,
)
from service.api.description import documentation
from service.api.description.openapi import complete_specification
from service.api.http.every_request import surround_requests
from service.api.http.problem_json import register_problems
from service.context import EXTENSION, make_context
from service.metrics import HttpDurations
from service.settings import Settings
from service.web import login, pages, run_pages

DESCRIPTION = """\
Register a model (a spec, or an uploaded .pt2 or TorchScript file), inspect it, read the report.

Every error is application/problem+json (RFC 9457) with `code`, `hint`, `request_id` and, where fields are wrong, \
`errors` with a JSON pointer each; `/query/…`, `/path/…` and `/headers/…` point outside the body. Unknown fields and \
unknown query parameters are refused.

Where keys are needed (everywhere but on loopback), send `Authorization: Bearer gi_…`. A key belongs to a tenant and \
has the scope `read`, `submit` (which includes read) or `admin` (which includes both). What belongs to another tenant \
is not found.

Every GET also answers HEAD: the same headers without a body. OPTIONS lists the methods of a path. There are no CORS \
headers: pages of other origins cannot call this API from a browser.

Answers of more than 1 KB are compressed for callers that send `Accept-Encoding: gzip`.

Lists are `{items, next_cursor}`, with the next page in the Link header too. Times are RFC 3339 in UTC. Numbers that \
are not finite are null, and a count beside them says why.
"""
TAGS = {
    "inspections": "One inspection of one model: submit, watch, cancel.",
    "reports": "What an inspection found.",
    "runs": "Training runs: a series of pushed reports over steps.",
    "rows": "Layers and parameters as rows, of one inspection and across all of them.",
    "models": "What can be inspected: specs, exported programs and TorchScript files.",
    "artifacts": "Uploaded bytes, named by their SHA-256.",
    "policies": "Named thresholds of the rules.",
    "access": "Keys, quotas and the audit log of a tenant.",
    "operations": "For the people who run the service.",
}
BLUEPRINTS = (
    artifacts.blueprint,
    models.blueprint,
    inspections.blueprint,
    events.blueprint,
    reports.blueprint,
    pushes.blueprint,
    runs.blueprint,
    rows.blueprint,
    comparisons.blueprint,
    policies.blueprint,
    keys.blueprint,
    usage.blueprint,
    audit_log.blueprint,
    health.blueprint,
    documentation.blueprint,
    pages.blueprint,
    run_pages.blueprint,
    login.blueprint,
)


def create_app(settings: Settings) -> APIFlask:
    """Build the WSGI application. Connects to nothing before the first request."""
    app = APIFlask(
        "service.app", title="gradinspect", version=__version__, spec_path=None, docs_path=None, json_errors=False
    )
    app.description = DESCRIPTION
    app.tags = [{"name": name, "description": text} for name, text in TAGS.items()]
    app.config["OPENAPI_VERSION"] = "3.1.0"
    app.config["AUTO_SERVERS"] = False  # the specification does not depend on the server's address
    app.extensions[EXTENSION] = make_context(settings)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    routes = [rule.rule for rule in app.url_map.iter_rules()]
    app.extensions["gradinspect_durations"] = durations = HttpDurations(settings.data_dir / "metrics", routes)
    surround_requests(app, durations)
    guard_requests(app)
    register_problems(app)
    app.after_request(pages.show_error_as_page)

    @app.spec_processor
    def complete(skeleton: dict[str, Any] | str) -> dict[str, Any] | str:
        return complete_specification(app, skeleton) if isinstance(skeleton, dict) else skeleton

    return app
