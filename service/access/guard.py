"""The guard before every view: it establishes the caller, checks the scope, counts the rate, and records the act."""

from __future__ import annotations

from flask import Flask, Response, current_app, g, request

from gradinspect.contracts.problems import ProblemError
from service.access.auditing import record_act
from service.access.authentication import SAFE_METHODS, identify
from service.access.requirements import requirement_of
from service.context import Caller, context
from service.rates import Rate, RateExceededError, Standing


def guard_requests(app: Flask) -> None:
    """Let only callers with the declared scope reach a view."""

    @app.before_request
    def admit() -> None:
        if request.endpoint is None or request.method == "OPTIONS":
            return
        requirement = requirement_of(current_app, request.endpoint)
        if requirement.scope is None:
            return
        caller = identify()
        if caller is None:
            raise ProblemError("unauthenticated", "this service needs a key; send it as Authorization: Bearer gi_…")
        g.caller = caller
        if not caller.may(requirement.scope):
            raise ProblemError(
                "missing_scope", f"this needs the scope {requirement.scope!r}; the key has {caller.scope!r}"
            )
        if requirement.rate is not None:
            spend(requirement.rate)

    @app.after_request
    def complete(response: Response) -> Response:
        caller: Caller | None = g.get("caller")
        if g.get("problem_code") == "unauthenticated":
            response.headers["WWW-Authenticate"] = 'Bearer realm="gradinspect"'
        if caller is None:
            return response
        if caller.key_id is not None:
            # No cache that several callers share may keep the answer for one of them.
            response.vary.update(("Authorization", "Cookie"))
            if "no-store" not in response.headers.get("Cache-Control", ""):
                response.cache_control.private = True
        response.headers.update(_rate_headers(g.get("standings") or []))
        if request.method not in SAFE_METHODS or response.status_code == 403:
            record_act(caller, response)
        return response


def spend(rate: Rate, cost: int = 1) -> None:
    """Count against a rate of the current caller; without a key nothing is counted.

    Raises:
        ProblemError: `too_many_requests`.
    """
    caller: Caller = g.caller
    if caller.key_id is None:
        return
    known = g.get("standings") or []
    try:
        g.standings = known + context().rates.spend(rate, tenant=caller.tenant, key_id=caller.key_id, cost=cost)
    except RateExceededError as error:
        g.standings = known + error.standings
        raise


def _rate_headers(standings: list[Standing]) -> dict[str, str]:
    """Return the headers of the limit that is nearest, in the form of the IETF's draft and in the older one."""
    if not standings:
        return {}
    nearest = min(standings, key=lambda one: one.remaining / one.limit)
    name = f'"{nearest.rate}-{nearest.payer}"'
    return {
        "RateLimit-Policy": f"{name};q={nearest.limit};w={nearest.window_seconds}",
        "RateLimit": f"{name};r={nearest.remaining};t={nearest.reset_seconds}",
        "RateLimit-Limit": str(nearest.limit),
        "RateLimit-Remaining": str(nearest.remaining),
        "RateLimit-Reset": str(nearest.reset_seconds),
    }
