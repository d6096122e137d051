"""The Celery application of workers. It only receives messages; retries are decided by the database."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.entity import Queue as CeleryQueue

from service.settings import Settings, SettingsError

# In addition to a job's wall time: loading, judging, writing rows, and a slow database.
VISIBILITY_MARGIN_SECONDS = 900
SHORTEST_VISIBILITY_SECONDS = 3600


def make_app(settings: Settings) -> Any:  # Any: Celery ships no type information
    """Configure Celery.

    Raises:
        SettingsError: no broker is configured.
    """
    if settings.broker_url is None:
        raise SettingsError("GRADINSPECT_BROKER_URL is not set; give one, or use `gradinspect serve`")
    app = Celery("gradinspect-worker", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        # Messages
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_queues=[CeleryQueue(name) for name in settings.queues],  # type: ignore[no-untyped-call]  # kombu's are partial
        task_default_queue=settings.worker_queues[0],
        # Acknowledged when the work is done; the maintainer requeues inspections of lost workers.
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # The broker may restart.
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=5,
        broker_transport_options={
            # Longer than any job, which would otherwise be delivered again while it runs.
            "visibility_timeout": max(
                SHORTEST_VISIBILITY_SECONDS, int(settings.job_wall_seconds) + VISIBILITY_MARGIN_SECONDS
            ),
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        # The threads only wait for children.
        worker_pool="threads",
        worker_concurrency=settings.worker_slots,
        worker_soft_shutdown_timeout=settings.stop_seconds,
        # Workers take orders from the queue only.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app
