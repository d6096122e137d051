"""Publishing an inspection's id on its queue. The database row is authoritative; messages only wake workers.

Messages may be lost: the maintainer republishes what no worker claimed. A broker that is down costs the caller about a
second. Only this module and the workers know Celery.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from gradinspect.contracts.wire.messages import INSPECT_TASK, InspectMessage
from service.settings import Queue, Settings

CONNECT_SECONDS = 0.5  # chosen: a broker in the same data centre answers in a millisecond
ANSWER_SECONDS = 1.0

_FAILURES = (KombuError, RedisError, OSError)


class BrokerUnavailable(Exception):  # noqa: N818  # a state, not a defect
    """The broker does not answer, or none is configured. The inspection is still due in the database."""


class Dispatcher:
    """Publishes to one broker. Threads may share it; a forked process needs its own.

    Args:
        broker_url: None when no broker is configured; every call then raises `BrokerUnavailable`.
    """

    def __init__(self, broker_url: str | None) -> None:
        self._celery = publisher(broker_url) if broker_url is not None else None

    def send(self, inspection_id: str, *, queue: Queue) -> None:
        """Publish one inspection. Publishing it twice is harmless: the second message claims nothing.

        Raises:
            BrokerUnavailable: within about a second.
        """
        message = InspectMessage(id=inspection_id).model_dump()
        try:
            self._connected().send_task(INSPECT_TASK, kwargs=message, queue=queue, retry=False, ignore_result=True)
        except _FAILURES as error:
            raise BrokerUnavailable(str(error)) from error

    def depths(self, queues: Sequence[Queue]) -> dict[Queue, int]:
        """Return the number of waiting messages by queue.

        Raises:
            BrokerUnavailable: within about a second.
        """
        try:
            with self._connected().pool.acquire(block=True, timeout=ANSWER_SECONDS) as connection:
                client = connection.default_channel.client
                return {queue: int(client.llen(queue)) for queue in queues}
        except _FAILURES as error:
            raise BrokerUnavailable(str(error)) from error

    def close(self) -> None:
        """Close the connections."""
        if self._celery is not None:
            self._celery.close()

    def _connected(self) -> Any:  # Any: Celery ships no type information
        if self._celery is None:
            raise BrokerUnavailable("no broker is configured")
        return self._celery


def send(settings: Settings, inspection_id: str, *, queue: Queue) -> None:
    """Publish one inspection on the broker of `settings`.

    Raises:
        BrokerUnavailable: within about a second.
    """
    _dispatcher(settings.broker_url).send(inspection_id, queue=queue)


def publisher(broker_url: str) -> Any:  # Any: Celery ships no type information
    """Make a Celery application that publishes and fails fast."""
    app = Celery("gradinspect", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        broker_connection_retry=False,
        broker_connection_retry_on_startup=False,
        broker_connection_timeout=CONNECT_SECONDS,
        broker_pool_limit=16,
        broker_transport_options={
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": ANSWER_SECONDS,
            "retry_on_timeout": False,
            "max_retries": 0,
            "interval_start": 0,
        },
    )
    return app


@lru_cache(maxsize=8)
def _dispatcher(broker_url: str | None) -> Dispatcher:
    return Dispatcher(broker_url)
