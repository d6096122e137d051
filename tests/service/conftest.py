"""The application on real servers, a test client, and inspections in any state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any  # Any: fields of a request

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient

from gradinspect.contracts.report.report import Measurements, ModelReference
from gradinspect.contracts.request.policy import DEFAULT_POLICY, Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.rules import judge
from gradinspect.testing.measurements import chain
from service.app import create_app
from service.context import EXTENSION, Context
from service.db.engine import Database
from service.lifecycle.delivery import deliver
from service.settings import Settings
from service.store.storage import Store
from tests.support.specimens import Ended, submit, take

MODEL = ModelReference(kind="spec", name="chain")


@pytest.fixture
def app(settings: Settings) -> Iterator[APIFlask]:
    """Make the application of this test, which runs on both databases."""
    application = create_app(settings)
    yield application
    here: Context = application.extensions[EXTENSION]
    here.database.dispose()
    here.dispatcher.close()


@pytest.fixture
def settings_of_sqlite(data_dir: Path, sqlite_url: str) -> Settings:
    """Make settings of a service on SQLite without a broker, which suffices for most of the API."""
    return Settings.from_environment({}, data_dir=data_dir, database_url=sqlite_url)


@pytest.fixture
def client(app: APIFlask) -> FlaskClient:
    """Make a test client; the test runs on both databases."""
    return app.test_client()


@pytest.fixture
def ended(app: APIFlask) -> Ended:
    """Return a function that makes a successful inspection with the measurements passed to it and returns its id."""
    here: Context = app.extensions[EXTENSION]

    def end_one(measured: Measurements | None = None, *, policy: Policy = DEFAULT_POLICY, **fields: Any) -> str:
        return end(here.database, here.store, measured or chain((0.1,) * 5), policy=policy, **fields)

    return end_one


def end(
    database: Database, store: Store, measured: Measurements, *, policy: Policy = DEFAULT_POLICY, **fields: Any
) -> str:
    """Submit, claim, judge and deliver one inspection, as a worker does."""
    inspection_id = submit(database, **fields).id
    claim = take(database, inspection_id)
    report = judge(measured, policy=policy, model=MODEL, inspection=inspection_id, settings=InspectionSettings())
    assert deliver(database, store, claim, report)
    return inspection_id
