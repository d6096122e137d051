"""The audit log: each change, each refusal for a missing scope, and each login, as a row and as a line of JSON.

An act has ids, a status and a code: no body, no query string and no header, so no secret can reach it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime

import structlog
from flask import Response, g, request

from service.context import Caller, context
from service.db.access import audit
from service.db.access.audit import Act
from service.db.engine import UNAVAILABLE, Database
from service.settings import Settings

LONGEST_ID = 128

_log = structlog.get_logger(__name__)


def record_act(caller: Caller, response: Response) -> None:
    """Record the current request. A database that is down loses the row, and the log gets the act instead."""
    act = Act(
        tenant=caller.tenant,
        key_id=caller.key_id,
        action=(request.endpoint or "").rpartition(".")[2],
        object=_object(response),
        address=(request.remote_addr or "unknown")[:LONGEST_ID],
        status=response.status_code,
        code=g.get("problem_code"),
        request_id=str(g.get("request_id")),
    )
    write_act(context().database, context().settings, act)


def write_act(database: Database, settings: Settings, act: Act) -> None:
    """Write an act as a row, and as a line where the settings name a file."""
    try:
        with database.write() as session:
            audit.insert(session, act)
    except UNAVAILABLE:
        _log.error("act_not_recorded", **asdict(act))
    if settings.audit_log:
        _write_line(settings.audit_log, act)


def _object(response: Response) -> str | None:
    """Return the id of what was made, or else the one that the path names."""
    made = response.headers.get("Location", "") if response.status_code < 300 else ""
    named = next(iter((request.view_args or {}).values()), None)
    found = made.rpartition("/")[2] or g.get("audited_object") or named
    # PostgreSQL takes no NUL in a text.
    return None if found is None else str(found).replace("\x00", "\ufffd")[:LONGEST_ID]


def _write_line(target: str, act: Act) -> None:
    line = json.dumps({"at": datetime.now(UTC).isoformat(), **asdict(act)}) + "\n"
    if target == "-":
        sys.stdout.write(line)
        sys.stdout.flush()
        return
    try:
        # One write in append mode, so that lines of several processes do not mix.
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        _log.error("act_not_written", file=target, detail=error.strerror, **asdict(act))
