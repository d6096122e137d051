"""A warm fork server for the test run, and a fixture that runs one job in a child of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gradinspect.contracts.wire.messages import Limits
from tests.support.children import Done, RunChild
from workers.child.sandbox import Level
from workers.supervisor.children import Child
from workers.supervisor.fork_client import ForkServers
from workers.supervisor.supervise import Watch, supervise

NO_DIGEST = f"sha256:{'0' * 64}"  # the bytes are files


@pytest.fixture(scope="session")
def fork_servers() -> Iterator[ForkServers]:
    servers = ForkServers()
    servers.start()
    servers.facts()
    yield servers
    servers.close()


@pytest.fixture
def run_child(fork_servers: ForkServers, tmp_path: Path) -> RunChild:
    """Run one job in a child, as a worker does."""

    def run(
        *,
        spec: dict[str, Any] | None = None,
        source: dict[str, Any] | None = None,
        model: bytes | None = None,
        weights: bytes | None = None,
        data: bytes | None = None,
        sample_input: dict[str, Any] | None = None,
        level: Level | None = None,
        meanwhile: Callable[[Child], None] = lambda _child: None,
        is_lost: Callable[[], bool] = lambda: False,
        is_stopping: Callable[[], bool] = lambda: False,
        settings: dict[str, Any] | None = None,
        **limits: Any,
    ) -> Done:
        allowed = Limits(**{"wall_seconds": 60.0, **limits})
        if source is None and spec is not None:
            source = {"kind": "spec", "spec": spec}
        elif source is None:
            source = {"kind": "torchscript", "torchscript": NO_DIGEST, "input": sample_input}
        asked = {"device": "cpu", **(settings or {})}
        job = {"source": source, "settings": asked, "limits": allowed.model_dump(mode="json")}
        given = {"model": model, "weights": weights, "data": data}
        files = {}
        for name, content in given.items():
            if content is not None:
                (tmp_path / name).write_bytes(content)
                files[name] = (tmp_path / name).open("rb")
        level = level or ("full" if files else "limits")
        child = fork_servers.spawn(json.dumps(job).encode(), files, allowed, level=level, cuda_device=None)
        told: list[tuple[str, float]] = []
        watch = Watch(is_lost, is_stopping, lambda stage, fraction: told.append((stage, fraction)))
        try:
            meanwhile(child)
            ending, log = supervise(child, allowed, watch, is_upload=model is not None)
        finally:
            child.close()
            for file in files.values():
                file.close()
        return Done(ending, log, told)

    return run
