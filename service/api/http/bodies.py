"""Request bodies: read in pieces, never held in memory as a whole, with a limited waiting time.

gunicorn shows a cut body as a normal end of file, and a stalled one as a read that does not return. Here the length is
counted, the socket has a timeout and the sender a slowest speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from flask import g, request
from gunicorn.http.errors import NoMoreData, ParseException
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.wrappers import Response

from gradinspect.contracts.problems import ProblemError
from service.context import context

PIECE_BYTES = 256 * 1024  # chosen: large enough to keep hashing ahead of Python, small enough to notice a slow sender
STALL_SECONDS = 20.0  # chosen: longer than any pause of a working network


def declared_length(limit: int) -> int:
    """Return the Content-Length of an upload.

    Raises:
        ProblemError: `length_required`, or `too_large` above `limit` bytes.
    """
    length = request.content_length
    if length is None:
        raise ProblemError("length_required", "this upload has no Content-Length")
    if length > limit:
        raise ProblemError("too_large", f"the body has {length} bytes; this path takes at most {limit}")
    return length


def arriving_bytes(limit: int) -> Iterator[bytes]:
    """Yield the body in pieces, as they arrive.

    Raises:
        ProblemError: `short_body` when it ends early or stalls, `too_large` when it exceeds `limit` bytes.
    """
    request.max_content_length = limit + 1  # a read at the limit itself probes for the end and would count as over it
    slowest = context().settings.min_upload_bytes_per_second
    grace = STALL_SECONDS + PIECE_BYTES / slowest
    received, started = 0, monotonic()
    with _socket_timeout(STALL_SECONDS):
        while piece := _next_piece(received, limit):
            received += len(piece)
            if received > limit:
                raise _too_large(limit)
            seconds = monotonic() - started
            if seconds > grace and received < slowest * seconds:
                raise ProblemError("short_body", f"the body comes slower than {slowest} bytes a second")
            yield piece
    if request.content_length is not None and received < request.content_length:
        raise _short(received)
    g.body_was_read = True


def _next_piece(received: int, limit: int) -> bytes:
    try:
        return request.stream.read(PIECE_BYTES)
    except TimeoutError:
        raise ProblemError("short_body", f"no byte arrived for {STALL_SECONDS:g} seconds") from None
    except (ClientDisconnected, ConnectionError, NoMoreData):
        raise _short(received) from None
    except RequestEntityTooLarge:
        raise _too_large(limit) from None
    except ParseException as error:
        raise ProblemError("bad_request", f"the chunks of the body cannot be read: {str(error)[:200]}") from None


def _too_large(limit: int) -> ProblemError:
    return ProblemError("too_large", f"the body is larger than {limit} bytes, the limit of this path")


def _short(received: int) -> ProblemError:
    wanted = request.content_length
    return ProblemError("short_body", f"the body ended after {received} of {wanted or 'an unknown number of'} bytes")


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    connection = request.environ.get("gunicorn.socket")
    if connection is None:  # another server, or a test client
        yield
        return
    connection.settimeout(seconds)
    try:
        yield
    finally:
        connection.settimeout(STALL_SECONDS)


def hang_up_after(response: Response) -> Response:
    """Close the connection of a request whose body is left unread, instead of waiting for the rest of it."""
    connection = request.environ.get("gunicorn.socket")
    is_unread = request.content_length or "Transfer-Encoding" in request.headers
    if connection is not None and is_unread and not g.get("body_was_read", False):
        connection.closes = True
    return response
