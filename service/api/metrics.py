"""What Prometheus reads: inspections counted by the database, the broker as it is now, and HTTP durations."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from gradinspect.contracts.wire.resources import ENDED
from service.context import Context
from service.db import inspections
from service.db.engine import UNAVAILABLE
from service.db.lists import tallies
from service.lifecycle.dispatch import BrokerUnavailable

_EVENTS = {
    "lease_expired": "Leases that ran out: a worker was lost.",
    "redispatch": "Inspections published again because nobody had taken them up.",
    "fenced_writes": "Results thrown away because their worker had lost the lease.",
}


class ServiceMetrics:
    """A collector for one scrape.

    Args:
        here: the application's context.
    """

    def __init__(self, here: Context) -> None:
        self._here = here

    def collect(self) -> Iterator[Metric]:
        """Everything but HTTP durations (the interface of a prometheus collector)."""
        yield GaugeMetricFamily("gradinspect_broker_up", "1 while the broker answers.", value=float(self._broker_up()))
        try:
            with self._here.database.read() as session:
                counted, kept = tallies.count(session), tallies.artifact_bytes(session)
                states = inspections.count_by_status(session).counts
        except UNAVAILABLE:
            yield GaugeMetricFamily("gradinspect_database_up", "1 while the database answers.", value=0.0)
            return
        yield GaugeMetricFamily("gradinspect_database_up", "1 while the database answers.", value=1.0)
        yield GaugeMetricFamily("gradinspect_artifact_bytes", "Bytes of uploads that are kept.", value=float(kept))
        yield from _of_inspections(counted, {str(status): count for status, count in states.items()})
        for name, text in _EVENTS.items():
            yield CounterMetricFamily(f"gradinspect_{name}", text, value=counted.get(name, 0.0))

    def _broker_up(self) -> bool:
        try:
            self._here.dispatcher.depths(self._here.settings.queues[:1])
        except BrokerUnavailable:
            return False
        return True


def _of_inspections(counted: dict[str, float], states: dict[str, int]) -> Iterator[Metric]:
    now = GaugeMetricFamily("gradinspect_inspections", "Inspections in each status.", labels=["status"])
    for status, count in states.items():
        now.add_metric([status], count)
    yield now
    ended = CounterMetricFamily("gradinspect_inspections", "Inspections that have ended.", labels=["status"])
    for status in sorted(ENDED):
        ended.add_metric([status], counted.get(tallies.ended(status), 0.0))
    yield ended
    yield _histogram("gradinspect_inspection_duration_seconds", "From start to end.", counted, tallies.DURATION)
    yield _histogram("gradinspect_queue_wait_seconds", "From submission to start.", counted, tallies.WAIT)


def _histogram(name: str, text: str, counted: dict[str, float], measure: str) -> Metric:
    buckets = [
        ("+Inf" if bound == inf else str(bound), counted.get(tallies.bucket(measure, bound), 0.0))
        for bound in (*tallies.BUCKETS, inf)
    ]
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=counted.get(tallies.total(measure), 0.0))
