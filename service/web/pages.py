"""The pages: the list at `/`, a report at `/inspections/{id}`, a comparison at `/compare`, errors of browsers."""

from __future__ import annotations

import json
from urllib.parse import urlencode

from apiflask import APIBlueprint
from flask import g, redirect, request
from werkzeug.wrappers import Response

from gradinspect.contracts.problems import FAILURES, ProblemError
from gradinspect.report.html.listing import sortable_listing
from gradinspect.report.html.render import render_body
from gradinspect.report.words.sections import request_facts
from gradinspect.rules import RULES
from service.access.requirements import requires
from service.web import gather
from service.web.assets import asset_response
from service.web.downloads import downloads
from service.web.list_view import Filters
from service.web.login import login_redirect
from service.web.rendering import page

# What a person can do; the hints of `PROBLEMS` are for programs that call the API.
_HINTS = {
    "not_found": "Check the address, or look for the inspection in the list.",
    "not_finished": "Open the inspection: its page shows the progress and then the report.",
    "no_report": "Open the inspection: its page says what happened.",
    "unavailable": "Reload this page in a few seconds.",
    "missing_scope": "Log out, and log in with a key that has the scope.",
    "internal": "Reload this page. If it stays like this, the operator's log has the details.",
}

blueprint = APIBlueprint("pages", __name__, enable_openapi=False)


@blueprint.get("/")
@requires("read")
def show_list() -> Response:
    """List the inspections, newest first; the address has the filters."""
    filters, cursor = Filters.of(request.args, gather.FILTER_NAMES), request.args.get("cursor") or None
    mistakes: list[str] = []
    listed = gather.ListPage((), None)
    try:
        listed = gather.list_page(filters, cursor)
    except ProblemError as problem:
        if problem.code != "invalid_request":
            raise
        mistakes = [error.detail for error in problem.errors]
    return page(
        "inspections.html",
        is_active=any(row.is_active for row in listed.rows),
        page="list",
        rows=listed.rows,
        filters=filters,
        mistakes=mistakes,
        rules=[rule.id for rule in RULES],
        next_url=_list_url(filters, listed.next_cursor) if listed.next_cursor is not None else None,
        first_url=_list_url(filters, None),
        is_later_page=cursor is not None,
        base_url=request.url_root.rstrip("/"),
    )


@blueprint.get("/inspections/<inspection_id>")
@requires("read")
def show_inspection(inspection_id: str) -> Response:
    """Show one inspection: its report, or its progress, or why it has no report."""
    inspection = gather.open_inspection(inspection_id)
    report, error = inspection.report, inspection.resource.error
    body = None
    if report is not None:
        listing = sortable_listing(
            report, choice=request.args.get("layers", "worst"), sort=request.args.get("sort", "depth")
        )
        body = render_body(report, listing, settings=inspection.settings)
    return page(
        "inspection.html",
        is_active=inspection.is_active,
        page="report",
        inspection=inspection,
        resource=inspection.resource,
        body=body,
        word=report.verdict if report is not None else inspection.resource.status,
        request_facts=request_facts(inspection.settings),
        failure_hint=FAILURES.get(error.code, FAILURES["internal"]) if error is not None else None,
        downloads=downloads(inspection_id),
    )


@blueprint.get("/compare")
@requires("read")
def show_comparison() -> Response:
    """Compare two inspections; ticked in the list they come as `of`, the newer one first."""
    ticked = request.args.getlist("of")
    if len(ticked) == 2:
        return redirect(f"/compare?{urlencode({'base': ticked[1], 'head': ticked[0]})}", 303)
    base, head = (request.args.get(name, "").strip()[:64] for name in ("base", "head"))
    if not base or not head:
        mistake = f"Tick two inspections, not {len(ticked)}." if ticked else None
        return page("compare_form.html", page="compare", base=base, head=head, mistake=mistake)
    return page("compare.html", page="compare", view=gather.comparison(base, head))


@blueprint.get("/assets/<digest>/<name>")
@requires(None)
def get_asset(digest: str, name: str) -> Response:
    """Return a style sheet, the script or the icon."""
    return asset_response(digest, name)


@blueprint.errorhandler(ProblemError)
def show_problem(problem: ProblemError) -> Response:
    """Show a mistake in the address as a page, and the login to a browser without a session."""
    if problem.code == "unauthenticated" and _wants_page():
        return login_redirect(request.full_path.rstrip("?"))
    return _problem_page(problem.problem.status, problem.code, problem.problem.title, problem.detail)


def show_error_as_page(response: Response) -> Response:
    """Turn a problem document into a page where a browser asked for a page; the API's own paths stay JSON."""
    is_api = request.path.startswith(("/v1/", "/openapi.json"))
    if response.mimetype != "application/problem+json" or is_api or not _wants_page():
        return response
    problem = json.loads(response.get_data())
    shown = _problem_page(response.status_code, problem["code"], problem["title"], problem["detail"])
    for name in ("Allow", "Retry-After"):
        if name in response.headers:
            shown.headers[name] = response.headers[name]
    return shown


def _wants_page() -> bool:
    accepted = request.accept_mimetypes
    return accepted["text/html"] > accepted["application/problem+json"]


def _problem_page(status: int, code: str, title: str, detail: str) -> Response:
    g.problem_code = code  # for the audit log
    return page("problem.html", status=status, page="problem", title=title, detail=detail, hint=_HINTS.get(code))


def _list_url(filters: Filters, cursor: str | None) -> str:
    query = filters.query | ({"cursor": cursor} if cursor is not None else {})
    return f"/?{urlencode(query)}" if query else "/"
