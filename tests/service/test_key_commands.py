"""`gradinspect keys`: made, listed and revoked at the database."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select

from service.db.access import keys as rows
from service.db.access.tables import AuditRecord
from service.db.engine import Database
from service.processes import commands
from service.processes.embedded import serve
from service.processes.first_key import refuse_without_keys
from service.processes.key_commands import keys
from service.settings import Settings, SettingsError

UNSET = dict.fromkeys(name for name in os.environ if name.startswith("GRADINSPECT_"))


@pytest.fixture
def run(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    # The commands would configure logging for this whole process.
    monkeypatch.setattr(commands, "configure_logs", lambda **_: None)

    def invoke(command: str, *arguments: str) -> Result:
        return CliRunner().invoke(keys, [command, "--data-dir", str(data_dir), *arguments], env=UNSET)

    return invoke


def test_a_key_is_made_in_an_empty_database_listed_and_revoked(run: Callable[..., Result], data_dir: Path) -> None:
    made = run("create", "--name", "ci", "--scope", "submit", "--tenant", "vision", "--expires-days", "30")
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    database = Database(f"sqlite:///{data_dir / 'gradinspect.db'}")
    with database.read() as session:
        found = rows.check(session, key)
        assert found is not None
        assert (found.record.tenant_id, found.record.scopes, found.record.name) == ("vision", ["submit"], "ci")
    listed = run("list").stdout
    assert "vision" in listed
    assert key.rpartition("_")[2] not in listed
    assert run("revoke", found.record.id).exit_code == 0
    again = run("revoke", found.record.id)
    assert again.exit_code == 2
    assert "there is no key" in again.stderr
    with database.read() as session:
        acts = [act.action for act in session.scalars(select(AuditRecord).where(AuditRecord.tenant_id == "vision"))]
    assert sorted(acts) == ["create_key", "revoke_key"]
    database.dispose()


def test_a_key_can_go_to_a_new_file_that_only_this_user_reads(run: Callable[..., Result], tmp_path: Path) -> None:
    file = tmp_path / "admin.key"
    made = run("create", "--scope", "admin", "--output", str(file), "--if-none")
    assert made.exit_code == 0
    assert file.read_text().startswith("gi_")
    assert file.stat().st_mode & 0o777 == 0o600
    assert "gi_" not in made.output
    again = run("create", "--scope", "admin", "--output", str(tmp_path / "second.key"), "--if-none")
    assert again.exit_code == 0
    assert not (tmp_path / "second.key").exists()


def test_a_file_that_exists_is_not_replaced_and_no_key_is_kept(
    run: Callable[..., Result], data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "admin.key").write_text("precious")
    made = run("create", "--output", str(tmp_path / "admin.key"))
    assert made.exit_code == 2
    assert "File exists" in made.stderr
    assert len(run("list").stdout.splitlines()) == 1


@pytest.mark.parametrize("tenant", ["", "a/b", "..", "ä", "x" * 65])
def test_a_tenant_that_could_not_name_a_folder_is_refused(run: Callable[..., Result], tenant: str) -> None:
    done = run("create", "--tenant", tenant)
    assert done.exit_code == 2
    assert "--tenant" in done.stderr


def test_a_service_that_others_can_reach_starts_only_with_a_key(data_dir: Path, database: Database) -> None:
    settings = Settings.from_environment({}, data_dir=data_dir, database_url=database.url, host="0.0.0.0")
    with pytest.raises(SettingsError, match="gradinspect keys create"):
        refuse_without_keys(settings, database)
    refuse_without_keys(settings.model_copy(update={"host": "127.0.0.1"}), database)
    with database.write() as session:
        rows.insert(session, tenant="default", name="first", scopes=["admin"])
    refuse_without_keys(settings, database)


def test_a_database_without_a_schema_has_no_key(data_dir: Path, tmp_path: Path) -> None:
    settings = Settings.from_environment({}, data_dir=data_dir, host="0.0.0.0")
    database = Database(settings.database_url)
    with pytest.raises(SettingsError, match="gradinspect keys create"):
        refuse_without_keys(settings, database)
    database.dispose()


def test_the_embedded_service_refuses_an_open_address_without_a_key(data_dir: Path, broker_url: str) -> None:
    settings = Settings.from_environment({}, data_dir=data_dir, host="0.0.0.0", port=0, broker_url=broker_url)
    with pytest.raises(SettingsError, match="gradinspect keys create"):
        serve(settings, announce=lambda _: None)
