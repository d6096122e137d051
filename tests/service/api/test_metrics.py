"""Request durations are counted by each process and read by all."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.metrics import BUCKETS, UNMATCHED, HttpDurations, cumulative

ROUTES = ["/healthz", "/v1/models"]


def samples(durations: HttpDurations) -> dict[tuple[str, str, str], float]:
    """Map (name, route, le) to the value of every sample of a scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(durations)
    return {
        (sample.name.removeprefix("gradinspect_http_request_duration_seconds"), sample.labels["route"],
         sample.labels.get("le", "")): sample.value
        for family in registry.collect() for sample in family.samples
    }  # fmt: skip


def test_a_request_counts_in_its_bucket_and_all_larger_ones(tmp_path: Path) -> None:
    durations = HttpDurations(tmp_path, ROUTES)
    durations.observe("/healthz", 0.003)
    seen = samples(durations)
    assert seen["_bucket", "/healthz", "0.0025"] == 0
    assert seen["_bucket", "/healthz", "0.005"] == 1
    assert seen["_bucket", "/healthz", "+Inf"] == 1
    assert seen["_count", "/healthz", ""] == 1
    assert seen["_sum", "/healthz", ""] == pytest.approx(0.003)


def test_a_duration_on_a_bound_belongs_to_the_bucket_below_it(tmp_path: Path) -> None:
    durations = HttpDurations(tmp_path, ROUTES)
    durations.observe("/healthz", BUCKETS[0])
    assert samples(durations)["_bucket", "/healthz", str(BUCKETS[0])] == 1


def test_an_unknown_route_is_counted_as_unmatched(tmp_path: Path) -> None:
    durations = HttpDurations(tmp_path, ROUTES)
    durations.observe("/v1/strangers", 0.1)
    assert samples(durations)["_count", UNMATCHED, ""] == 1


def test_a_route_without_requests_is_not_listed(tmp_path: Path) -> None:
    assert samples(HttpDurations(tmp_path, ROUTES)) == {}


def _observe_in_child(folder: Path) -> None:
    durations = HttpDurations(folder, ROUTES)
    for _ in range(5):
        durations.observe("/v1/models", 1.0)


def test_processes_see_the_requests_of_the_others(tmp_path: Path) -> None:
    children = [multiprocessing.get_context("spawn").Process(target=_observe_in_child, args=(tmp_path,)) for _ in "ab"]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    durations = HttpDurations(tmp_path, ROUTES)
    durations.observe("/v1/models", 1.0)
    assert samples(durations)["_count", "/v1/models", ""] == 11


def test_counts_of_other_routes_are_left_alone(tmp_path: Path) -> None:
    HttpDurations(tmp_path, ROUTES).observe("/healthz", 0.1)
    assert samples(HttpDurations(tmp_path, ["/healthz"])) == {}


def test_cumulative_counts_never_fall() -> None:
    buckets, total = cumulative([1.0] * (len(BUCKETS) + 1), 7.5)
    assert [count for _, count in buckets] == list(range(1, len(BUCKETS) + 2))
    assert (buckets[-1][0], total) == ("+Inf", 7.5)
