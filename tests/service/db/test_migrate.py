"""Upgrades and downgrades of the schema, and its equality with the tables."""

from __future__ import annotations

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from service.db import migrate  # registers its tables with the metadata
from service.db.engine import Database
from service.db.tables import Table
from tests.support.specimens import end_well, finding, layer, make_report, parameter, submit, take


def test_the_migrated_schema_equals_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_migrated_check_constraints_equal_those_of_the_tables(database: Database) -> None:
    # Alembic compares no check constraints.
    with database.engine.connect() as connection:
        found = {check["name"] for check in inspect(connection).get_check_constraints("inspections")}
    assert found == {"inspections_status_check", "inspections_lease_check"}


def test_a_downgrade_removes_everything_and_an_upgrade_restores_it(database: Database) -> None:
    migrate.downgrade(database.url, "base")
    with database.engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    assert migrate.current(database.url) is None
    migrate.upgrade(database.url)
    assert migrate.current(database.url) == migrate.head()


def test_a_database_with_rows_is_downgraded_and_upgraded(database: Database) -> None:
    end_well(database, report=make_report((layer(),), (parameter(),), (finding(),)), labels={"team": "vision"})
    take(database, submit(database).id)
    migrate.downgrade(database.url, "base")
    migrate.upgrade(database.url)
    assert end_well(database, report=make_report((layer(),))).startswith("insp_")


def test_upgrading_an_upgraded_database_changes_nothing(database: Database) -> None:
    migrate.upgrade(database.url)
    assert migrate.current(database.url) == migrate.head()


def test_concurrent_upgrades_of_processes_run_once(database: Database) -> None:
    migrate.downgrade(database.url, "base")
    failures: list[BaseException] = []

    def upgrade() -> None:
        try:
            migrate.upgrade(database.url)
        except BaseException as error:  # noqa: BLE001  # shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert migrate.current(database.url) == migrate.head()


def test_migrations_refuse_to_run_without_a_database() -> None:
    from alembic import command

    with pytest.raises(RuntimeError, match="gradinspect migrate"):
        command.upgrade(migrate._scripts(), "head")
