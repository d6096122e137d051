"""The only task: a message names an inspection, and the worker processes it."""

from __future__ import annotations

from typing import Any

import structlog

from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.wire.messages import INSPECT_TASK, InspectMessage
from workers.supervisor.worker import Worker

_log = structlog.get_logger(__name__)


def register(app: Any, worker: Worker) -> None:  # Any: Celery ships no type information
    """Register the task `INSPECT_TASK`, which calls `worker`."""

    @app.task(name=INSPECT_TASK)  # type: ignore[untyped-decorator]  # as above
    def inspect(**fields: object) -> None:
        try:
            message = from_python(InspectMessage, fields)
        except ProblemError as error:
            _log.warning("message_refused", detail=str(error)[:1000])
            return
        worker.inspect(message.id)
