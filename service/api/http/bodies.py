"""Request bodies: read in pieces, never held in memory as a whole, with a limited waiting time.

gunicorn shows a cut body as a normal end of file, and a stalled one as a read that does not return. Here the length is
counted, the socket has a timeout and the sender a slowest speed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

from flask import g, request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.wrappers import Response

from gradinspect.contracts.problems import ProblemError
from service.context import context

PIECE_BYTES = 256 * 1024  # chosen: large enough to keep hashing ahead of Python, small enough to notice a slow sender
STALL_SECONDS = 20.0  # chosen: longer than any pause of a working network
LINGER_SECONDS = 0.5  # chosen: enough for a response to reach any client
LINGER_BYTES = 1024 * 1024


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
    except (ClientDisconnected, ConnectionError):
        raise _short(received) from None
    except RequestEntityTooLarge:
        raise _too_large(limit) from None


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
        connection.setblocking(True)


def hang_up_after(response: Response) -> Response:
    """Close the connection of a request whose body was refused unread.

    gunicorn would wait for a slow sender before it closes: 5 s in this thread and 2 s in the loop that accepts
    all connections. So this thread shuts the connection down itself.
    """
    connection = request.environ.get("gunicorn.socket")
    is_unread = request.content_length or "Transfer-Encoding" in request.headers
    if connection is not None and is_unread and not g.get("body_was_read", False):
        response.call_on_close(lambda: _shut_down(connection))
    return response


def _shut_down(connection: socket.socket) -> None:
    deadline = monotonic() + LINGER_SECONDS
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)  # the response is complete; a sender that reads it will stop
        left = LINGER_BYTES
        while left > 0 and (remaining := deadline - monotonic()) > 0:
            connection.settimeout(remaining)
            taken = len(connection.recv(65536))
            if taken == 0:
                break
            left -= taken
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
