"""Steps around every request: an id, a duration, a log line, security headers, compression."""

from __future__ import annotations

import re
from time import perf_counter
from uuid import uuid4

import structlog
from flask import Flask, Response, g, request

from service.api.http.bodies import hang_up_after
from service.api.http.compression import compress
from service.api.http.origins import refuse_foreign_requests
from service.metrics import UNMATCHED, HttpDurations

REQUEST_ID = "X-Request-Id"
_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})  # probes: one every few seconds, for ever

# In a browser, a response may load and run nothing. HTML pages and the documentation set other policies.
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
_SECURITY_HEADERS = {
    "Content-Security-Policy": API_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_log = structlog.get_logger(__name__)


def request_id() -> str:
    """Return the id of the current request: the caller's own, or a new one."""
    return str(g.get("request_id") or "-")


def surround_requests(app: Flask, durations: HttpDurations) -> None:
    """Give every request its id, and every answer its headers, log line and entry in the histogram."""

    @app.before_request
    def begin() -> None:
        given = request.headers.get(REQUEST_ID, "")
        g.started = perf_counter()
        g.request_id = given if _VALID_REQUEST_ID.fullmatch(given) else uuid4().hex
        refuse_foreign_requests()

    @app.after_request
    def end(response: Response) -> Response:
        for name, value in _SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers[REQUEST_ID] = request_id()
        if request.method == "OPTIONS" and request.routing_exception is None:
            _empty(response)
        compress(response)
        hang_up_after(response)
        seconds = perf_counter() - g.started
        route = request.url_rule.rule if request.url_rule is not None else UNMATCHED
        durations.observe(route, seconds)
        _write_line(route, response.status_code, seconds)
        return response


def _empty(response: Response) -> None:
    """Make the answer to OPTIONS, which is its Allow header, 204 without a content type."""
    response.status_code = 204
    response.headers.pop("Content-Type", None)


def _write_line(route: str, status: int, seconds: float) -> None:
    write = _log.debug if route in _QUIET_ROUTES and status < 500 else _log.info
    write(
        "request",
        method=request.method[:16],
        path=request.path[:256],
        status=status,
        milliseconds=round(1000 * seconds, 2),
        request_id=request_id(),
    )
