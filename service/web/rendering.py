"""The templates' environment: filters and what every page needs, set on one blueprint's pages alone."""

from __future__ import annotations

from typing import Any

from flask import request
from jinja2 import Environment, PackageLoader, StrictUndefined
from werkzeug.wrappers import Response

from gradinspect.version import __version__
from service.web.assets import asset_url
from service.web.formats import FILTERS

# Nothing from elsewhere, no inline script or style; the script may ask this service for the page again.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

_environment = Environment(
    loader=PackageLoader("service.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= FILTERS
_environment.globals |= {"asset_url": asset_url, "version": __version__}


def page(template: str, *, status: int = 200, is_active: bool = False, **values: Any) -> Response:
    """Render a page and let a browser ask for it again cheaply.

    Args:
        template: a file of templates/web.
        status: the HTTP status.
        is_active: whether it shows something that is still going on.
        values: what the template reads.
    """
    text = _environment.get_template(f"web/{template}").render(is_active=is_active, **values)
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
    response = Response(text, status=status, mimetype="text/html", headers=headers)
    if status != 200:
        return response
    response.add_etag()
    return response.make_conditional(request.environ)
