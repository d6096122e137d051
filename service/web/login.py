"""The login of the pages: a form takes a key, and a signed cookie stands for it from then on."""

from __future__ import annotations

from urllib.parse import quote

from apiflask import APIBlueprint
from flask import g, redirect, request
from werkzeug.wrappers import Response

from service.access.authentication import caller_of_key
from service.access.requirements import requires
from service.access.sessions import close_session, open_session
from service.web.rendering import page

MOST_FORM_BYTES = 8192  # chosen: a key and the longest address of a page

blueprint = APIBlueprint("login", __name__, enable_openapi=False)


@blueprint.get("/login")
@requires(None)
def show_login() -> Response:
    """Show the form."""
    return page("login.html", page="login", next=_local(request.args.get("next", "/")), mistake=None)


@blueprint.post("/login")
@requires(None)
def log_in() -> Response:
    """Open a session for a key, and go on to the page that was asked for."""
    request.max_content_length = MOST_FORM_BYTES
    target = _local(request.form.get("next", "/"))
    caller = caller_of_key(request.form.get("key", "").strip())
    if caller is None:
        mistake = "This key is unknown, revoked or expired."
        return page("login.html", status=401, page="login", next=target, mistake=mistake)
    g.caller = caller  # for the audit log
    response = redirect(target, 303)
    open_session(response, str(caller.key_id))
    return response


@blueprint.post("/logout")
@requires(None)
def log_out() -> Response:
    """Close the session; without one nothing changes."""
    response = redirect("/login", 303)
    close_session(response)
    return response


def login_redirect(target: str) -> Response:
    """Return the redirect to the form, which leads back to a page."""
    return redirect(f"/login?next={quote(target, safe='')}", 303)


def _local(target: str) -> str:
    """Return an address on this service: another host's could imitate the pages."""
    is_local = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target[:2048] if is_local else "/"
