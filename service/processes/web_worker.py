"""A threaded worker of gunicorn whose threads see complete requests only.

In gunicorn's own, a connection takes a thread from its first byte to the last byte of its response, so that a hundred
slow clients stop the service. Here the main loop waits: for headers and small bodies before a thread gets the request,
for slow readers after the thread has written its response, and for the end of a closed connection.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import resource
import select
import selectors
import socket
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import Any
from uuid import uuid4

from gunicorn.workers.gthread import TConn, ThreadWorker

from gradinspect.contracts.problems import PROBLEMS
from service.processes.arrival import CONTINUE, STALL_SECONDS, Arrival

MOST_CONNECTIONS = 4000  # of each process; chosen: 16 KB of memory each
MOST_PER_ADDRESS = 1000  # of each process; not of loopback, where a proxy may be
MOST_PENDING_BYTES = 512 * 1024  # of one response that its reader has not taken; more holds a thread
LINGER_SECONDS = 0.5  # chosen: enough for a response to reach any client
LINGER_BYTES = 1024 * 1024
SWEEP_SECONDS = 0.25
MOST_ACCEPTED = 64  # at once
READ_BYTES = 65536
SWITCH_SECONDS = 0.001  # chosen: with 64 busy threads a probe waits for its turn 64 ms, not 320
PROBE = b"GET /healthz "

_REASONS = {
    "bad_request": "the chunks of the body cannot be read",
    "too_large": "the body is larger than the limit of this path",
    "short_body": "the request did not arrive in time",
}


class PatientSocket:
    """A connected socket whose `sendall` does not wait for a slow reader: the main loop sends what is left.

    Attributes:
        pending: bytes that the reader has not taken yet.
        closes: set to True, the connection is closed after the response, whatever was left unread.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.pending = bytearray()
        self.closes = False

    def __getattr__(self, name: str) -> Any:  # Any: the socket's own methods
        return getattr(self._socket, name)

    def sendall(self, data: bytes) -> None:
        """Send what the network takes now, and keep the rest up to a bound; beyond it, wait for the reader.

        Raises:
            TimeoutError: the reader takes nothing.
            OSError: the connection is lost.
        """
        self.pending += data
        self.flush()
        while len(self.pending) > MOST_PENDING_BYTES:
            if not select.select([], [self._socket], [], STALL_SECONDS)[1]:
                raise TimeoutError(f"no byte was read for {STALL_SECONDS:g} seconds")
            self.flush()

    def flush(self) -> bool:
        """Send what the network takes now; return whether nothing is left."""
        with contextlib.suppress(BlockingIOError):
            while self.pending:
                sent = self._socket.send(memoryview(self.pending)[: 2**20], socket.MSG_DONTWAIT)
                del self.pending[:sent]
        return not self.pending


class PatientWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn ships no type information
    """Waits for slow clients in the main loop, with deadlines, and gives threads complete requests."""

    most_body_bytes = 2**20  # set from the settings; larger bodies are read by the application

    def init_process(self) -> None:
        """Allow as many open files as connections, then start."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        enough = 2 * MOST_CONNECTIONS + 1024
        if soft < enough:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(enough, hard), hard))
        sys.setswitchinterval(SWITCH_SECONDS)
        self._probes = ThreadPoolExecutor(1, "probes")
        self._arrivals: dict[Any, Arrival] = {}  # connections whose request is not complete, the oldest first
        self._deadlines: dict[Any, float] = {}  # connections that flush their response or linger
        self._addresses: Counter[str] = Counter()
        self._next_sweep = 0.0
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """Accept what is waiting; at the bound of all connections, the longest waiting one gives up its place."""
        for _ in range(MOST_ACCEPTED):
            try:
                connected, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # too many open files
                self._drop_oldest()
                return
            if self.nr_conns >= MOST_CONNECTIONS - MOST_ACCEPTED:
                self._drop_oldest()
            host = str(address[0]) if address else ""
            if self._addresses[host] >= MOST_PER_ADDRESS and not _is_loopback(host):
                connected.close()
                continue
            connection = TConn(self.cfg, connected, address, listener.getsockname())
            connection.sock = PatientSocket(connected)
            connection.arrived = b""
            connection.host = host
            self.nr_conns += 1
            self._addresses[host] += 1
            self._wait(connection, Arrival(self.most_body_bytes))
            self._read(connection, connection.sock)

    def handle(self, connection: Any) -> Any:
        """Answer one complete request, in a thread."""
        connection.sock.setblocking(True)
        connection.sock.settimeout(STALL_SECONDS)
        connection.data_ready = True
        try:
            connection.init()
            connection.sock.settimeout(STALL_SECONDS)
        except OSError:
            return False
        connection.parser.unreader.unread(connection.arrived)
        connection.arrived = b""
        return super().handle(connection)

    def enqueue_req(self, connection: Any) -> None:
        """Give a request to a thread; probes have a separate one and never queue behind other requests."""
        if not connection.arrived.startswith(PROBE):
            super().enqueue_req(connection)
            return
        future = self._probes.submit(self.handle, connection)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, connection, done))

    def _keepalive_after(self, connection: Any, keepalive: bool) -> bool:
        return False if connection.sock.closes else bool(super()._keepalive_after(connection, keepalive))

    def finish_request(self, connection: Any, future: Any) -> None:
        """Send the rest of the response, then wait for the next request or the end of the connection."""
        keeps = not future.cancelled() and future.exception() is None and bool(future.result()) and self.alive
        self._flush(connection, keeps, connection.sock)

    def murder_pending(self) -> None:
        """Close connections whose deadline has passed."""
        now = monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + SWEEP_SECONDS
        for connection, arrival in list(self._arrivals.items()):
            if arrival.deadline < now:
                self._refuse(connection, "short_body") if arrival.data else self._close(connection)
        for connection, deadline in list(self._deadlines.items()):
            if deadline < now:
                self._close(connection)

    def _wait(self, connection: Any, arrival: Arrival) -> None:
        connection.sock.setblocking(False)
        self._arrivals[connection] = arrival
        self.poller.register(connection.sock, selectors.EVENT_READ, partial(self._read, connection))

    def _read(self, connection: Any, _socket: object) -> None:
        arrival = self._arrivals[connection]
        try:
            piece = connection.sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            piece = b""
        if not piece and not arrival.has_header:
            self._close(connection)
        elif not piece or arrival.feed(piece):  # what ends early is refused in a thread, which reads the end at once
            self._hand_over(connection)
        elif arrival.expects_continue:
            arrival.expects_continue = False
            with contextlib.suppress(OSError):
                connection.sock.send(CONTINUE, socket.MSG_DONTWAIT)

    def _hand_over(self, connection: Any) -> None:
        refused = self._arrivals[connection].refused
        if refused is not None:
            self._refuse(connection, refused)
            return
        connection.arrived = bytes(self._arrivals.pop(connection).data)
        self.poller.unregister(connection.sock)
        self.enqueue_req(connection)

    def _refuse(self, connection: Any, code: str) -> None:
        """Answer a request that no thread will see."""
        del self._arrivals[connection]
        self.poller.unregister(connection.sock)
        connection.sock.pending += refusal(code, _REASONS[code])
        self._flush(connection, False, connection.sock)

    def _flush(self, connection: Any, keeps: bool, _socket: object) -> None:
        """Send what is left of a response; called again whenever the socket takes more."""
        is_registered = connection in self._deadlines
        try:
            is_done = connection.sock.flush()
        except OSError:
            self._close(connection)
            return
        if is_done:
            if is_registered:
                del self._deadlines[connection]
                self.poller.unregister(connection.sock)
            self._next_request(connection) if keeps else self._linger(connection)
            return
        self._deadlines[connection] = monotonic() + STALL_SECONDS
        if not is_registered:
            connection.sock.setblocking(False)
            self.poller.register(connection.sock, selectors.EVENT_WRITE, partial(self._flush, connection, keeps))

    def _next_request(self, connection: Any) -> None:
        arrival = Arrival(self.most_body_bytes, first_byte_seconds=self.cfg.keepalive)
        self._wait(connection, arrival)
        ahead = connection.parser.unreader.take_buffered()
        if ahead and arrival.feed(ahead):
            self._hand_over(connection)

    def _linger(self, connection: Any) -> None:
        """Close after the client has seen the end: closed at once, unread bytes would destroy the response."""
        try:
            connection.sock.setblocking(False)
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(connection)
            return
        self._deadlines[connection] = monotonic() + LINGER_SECONDS
        connection.left = LINGER_BYTES
        self.poller.register(connection.sock, selectors.EVENT_READ, partial(self._discard, connection))

    def _discard(self, connection: Any, _socket: object) -> None:
        try:
            count = len(connection.sock.recv(READ_BYTES))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count = 0
        connection.left -= count
        if count == 0 or connection.left <= 0:
            self._close(connection)

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._arrivals), None)
        if oldest is not None:
            self._close(oldest)

    def _close(self, connection: Any) -> None:
        self._arrivals.pop(connection, None)
        self._deadlines.pop(connection, None)
        with contextlib.suppress(KeyError, ValueError, OSError):
            self.poller.unregister(connection.sock)
        self.nr_conns -= 1
        self._addresses[connection.host] -= 1
        if self._addresses[connection.host] <= 0:
            del self._addresses[connection.host]
        connection.close()


def refusal(code: str, detail: str) -> bytes:
    """Write a problem document as a whole response that ends the connection."""
    row = PROBLEMS[code]
    problem = {
        "type": f"/docs#problem-{code.replace('_', '-')}", "title": row.title, "status": row.status, "detail": detail,
        "instance": "/", "code": code, "hint": row.hint, "request_id": uuid4().hex,
    }  # fmt: skip
    body = json.dumps(problem).encode()
    head = (
        f"HTTP/1.1 {row.status} {HTTPStatus(row.status).phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _is_loopback(host: str) -> bool:
    try:
        return not host or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
