"""Cost of the API per request over bare Flask with the same database reads; the goal is at most twice.

Run with `python -m benchmarks.api [--requests 400]`. Both are called as WSGI applications in this process, in turns,
and the CPU time of this thread is taken: no sockets, no other process, little noise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import thread_time

from flask import Flask, Response
from werkzeug.test import EnvironBuilder

from gradinspect.contracts.sources import SpecSource
from service.app import create_app
from service.db import inspections, migrate, models
from service.db.engine import Database
from service.db.lists import row_queries
from service.logs import configure_logs
from service.settings import Settings
from tests.support.specimens import TENANT, end_well, layer, make_report, spec, submit

GOAL = 2.0
ROUNDS = 15
Ask = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200, help="of each kind in each round")
    options = parser.parse_args()
    configure_logs(level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.from_environment({}, data_dir=Path(folder))
        migrate.upgrade(settings.database_url)
        database = Database(settings.database_url)
        addresses = fill(database)
        ours, bare = create_app(settings), bare_flask(database)
        print(f"{'request':44} {'bare Flask':>12} {'ours':>12} {'ratio':>7} {'goal':>7}")
        for title, address in addresses.items():
            compare(title, asker(bare, address, options.requests), asker(ours, address, options.requests))


def fill(database: Database) -> dict[str, str]:
    """Insert what the requests read; return the address of each request by its name."""
    with database.write() as session:
        model = models.register(session, SpecSource(spec=spec()), tenant=TENANT, name="small").id
    done = end_well(database, report=make_report(tuple(layer(place) for place in range(50))), model_id=model)
    waiting = submit(database, model_id=model).id
    return {
        "GET an inspection that has ended": f"/v1/inspections/{done}",
        "GET an inspection that is queued": f"/v1/inspections/{waiting}",
        "GET a model": f"/v1/models/{model}",
        "GET 50 layers of an inspection": f"/v1/inspections/{done}/layers",
    }


def bare_flask(database: Database) -> Flask:
    """Serve the same reads from the same database with json.dumps and nothing else."""
    app = Flask("bare")

    def answer(value: object) -> Response:
        return Response(json.dumps(value, default=str), mimetype="application/json")

    @app.get("/v1/inspections/<name>")
    def inspection(name: str) -> Response:
        with database.read() as session:
            record = inspections.get(session, name, tenant=TENANT)
        fields = ("id", "status", "model_id", "verdict", "summary", "attempt", "labels", "policy", "created_at")
        return answer({field: getattr(record, field) for field in fields})

    @app.get("/v1/models/<name>")
    def model(name: str) -> Response:
        with database.read() as session:
            record = models.get(session, name, tenant=TENANT)
        fields = ("id", "name", "kind", "digest", "parameters", "source", "created_at")
        return answer({field: getattr(record, field) for field in fields})

    @app.get("/v1/inspections/<name>/layers")
    def layers(name: str) -> Response:
        with database.read() as session:
            inspections.get(session, name, tenant=TENANT)
            page = row_queries.layers(session, row_queries.InspectionLayerQuery(), tenant=TENANT, inspection=name)
        return answer([row.model_dump() for row in page.items])

    return app


def asker(app: Flask, address: str, count: int) -> Ask:
    """Return a function that sends a number of requests and returns the CPU seconds of one."""
    environ = EnvironBuilder(path=address, headers=[("Accept", "application/json")]).get_environ()

    def ask() -> float:
        started = thread_time()
        for _ in range(count):
            statuses: list[str] = []
            body = b"".join(app(dict(environ), lambda status, _headers, seen=statuses: seen.append(status)))
            assert statuses[0].startswith("200"), (statuses, body[:200])
        return (thread_time() - started) / count

    return ask


def compare(title: str, bare: Ask, ours: Ask) -> None:
    """Print one row of the table: medians, and the median of the ratios of neighbouring runs."""
    bare(), ours()  # caches, connections, compiled statements
    pairs = [(bare(), ours()) for _ in range(ROUNDS)]
    microseconds = [1e6 * median(side) for side in zip(*pairs, strict=True)]
    ratio = median(own / theirs for theirs, own in pairs)
    print(f"{title:44} {microseconds[0]:9.0f} µs {microseconds[1]:9.0f} µs {ratio:7.2f} {f'≤ {GOAL:g}':>7}")


if __name__ == "__main__":
    main()
