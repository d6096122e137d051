"""Logging of every process of the service: one structured line for each event, on standard error.

Our events use structlog; records of libraries (gunicorn, Celery, SQLAlchemy) get the same format through the standard
library's root handler.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor

LogFormat = Literal["json", "console"]
# At INFO they log each retry and each step of each message.
MOST_FRAMES = 12  # of each exception in a chain, the innermost ones; chosen: ours and the library's call
MOST_TRACEBACK = 3500  # letters; with its event, a line of 4 KB
LOUD_LIBRARIES = ("celery.redirected", "celery.worker.strategy", "celery.app.trace", "kombu", "alembic", "httpx")


def configure_logs(*, log_format: LogFormat = "json", level: str = "INFO") -> None:
    """Set up logging for this process.

    Args:
        log_format: `json` for machines, `console` for a person at a terminal.
        level: name of a level of the standard library.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer = _renderers(log_format)
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name in LOUD_LIBRARIES:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def _renderers(log_format: LogFormat) -> list[Processor]:
    if log_format == "console":
        colors = sys.stderr.isatty()
        # Handed over as a text: the renderer's own tracebacks show local variables, passwords among them.
        return [_write_traceback, structlog.dev.ConsoleRenderer(colors=colors)]
    return [_write_traceback, structlog.processors.JSONRenderer(default=str)]


def _write_traceback(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its traceback without local variables, of bounded length."""
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else sys.exc_info()[1]
    if info and error is not None:
        event["exception"] = _traceback(error)
    return event


def _traceback(error: BaseException) -> str:
    parts = list(traceback.TracebackException.from_exception(error, limit=-MOST_FRAMES, compact=True).format())
    text = "".join(parts).rstrip()
    half = MOST_TRACEBACK // 2
    return text if len(text) <= MOST_TRACEBACK else f"{text[:half]}\n… {len(text) - 2 * half} letters …\n{text[-half:]}"
