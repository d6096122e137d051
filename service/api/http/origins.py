"""Which host names the service answers to, and which web pages may change something.

A browser sends requests to any address for any page, loopback included. The Host header shows under which name it
reached us (DNS rebinding makes another site's name lead here); Origin and Sec-Fetch-Site show whose page asked.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import request

from gradinspect.contracts.problems import ProblemError
from service.access.authentication import SAFE_METHODS
from service.context import context

_OWN_SITES = frozenset({"same-origin", "none"})  # none: typed by the user. Other ports of a host are "same-site"
_FORMS = frozenset({"application/x-www-form-urlencoded", "text/plain"})  # a page can send these without asking us
PAGE_FORMS = frozenset({"/login", "/logout"})  # a browser sends Origin with them, which is checked first
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")


def refuse_foreign_requests() -> None:
    """Refuse a request that reached us by another name, or that a page of another origin wants to change something by.

    Raises:
        ProblemError: `bad_request` without a Host, `host_not_allowed`, `cross_origin`, `unsupported_media_type` for
            the body of an HTML form.
    """
    _check_host()
    if request.method in SAFE_METHODS:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None and site.lower() not in _OWN_SITES:
        raise ProblemError("cross_origin", f"Sec-Fetch-Site is {site[:32]!r}: a page of another origin sent this")
    if origin is not None and not _is_own(origin):
        raise ProblemError("cross_origin", f"Origin is {origin[:128]!r}, which is not this service")
    if request.mimetype in _FORMS and request.path not in PAGE_FORMS:
        raise ProblemError("unsupported_media_type", f"Content-Type is {request.mimetype}; send application/json")


def _check_host() -> None:
    host = request.headers.get("Host")
    if host is None and request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        return
    match = _HOST.fullmatch(host or "")
    if match is None:
        raise ProblemError("bad_request", f"the Host header is {(host or '')[:128]!r}; send the name of this service")
    if not _is_allowed(match[1].strip("[]").lower().rstrip(".")):
        raise ProblemError("host_not_allowed", f"Host is {match[0][:128]!r}")


def _is_allowed(name: str) -> bool:
    settings = context().settings
    if "*" in settings.allowed_hosts or name in settings.allowed_hosts or name == "localhost":
        return True
    if name in (settings.host, urlsplit(settings.public_url or "").hostname):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _is_own(origin: str) -> bool:
    public = urlsplit(context().settings.public_url or "")
    own = {request.host_url.rstrip("/").lower(), f"{public.scheme}://{public.netloc}".lower()}
    return origin.lower() in own
