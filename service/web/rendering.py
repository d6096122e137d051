"""Renders the pages' templates, with the headers that a browser needs."""

from __future__ import annotations

from typing import Any

from flask import request
from jinja2 import PackageLoader
from werkzeug.wrappers import Response

from gradinspect.report.html.environment import environment
from gradinspect.version import __version__
from service.context import has_session
from service.web.assets import asset_url
from service.web.formats import FILTERS

# Nothing from other hosts, no inline script or style; the script may request the page again from this service.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_environment = environment(PackageLoader("service.web"))
_environment.filters |= FILTERS
_environment.globals |= {"asset_url": asset_url, "version": __version__}


def page(
    template: str,
    *,
    status: int = 200,
    is_active: bool = False,
    **values: Any,  # Any: whatever the template reads
) -> Response:
    """Render a page, with an ETag so that a browser's next request is cheap.

    A browser sends `Origin: null` with the forms of a page whose policy is `no-referrer`; `same-origin` keeps it.

    Args:
        template: a file of templates/web.
        status: the HTTP status.
        is_active: whether it shows an inspection that has not ended; the page then reloads itself.
        values: what the template reads.
    """
    text = _environment.get_template(f"web/{template}").render(is_active=is_active, has_session=has_session(), **values)
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache", "Referrer-Policy": "same-origin"}
    response = Response(text, status=status, mimetype="text/html", headers=headers)
    if status != 200:
        return response
    response.add_etag()
    return response.make_conditional(request.environ)
