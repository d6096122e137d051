"""The server's commands: their output and their errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from service.db import migrate
from service.db.engine import Database
from service.processes import commands
from tests.support.specimens import submit

UNSET = dict.fromkeys(name for name in os.environ if name.startswith("GRADINSPECT_"))


@pytest.fixture
def run(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    # The commands would configure logging for this whole process.
    monkeypatch.setattr(commands, "configure_logs", lambda **_: None)

    def invoke(name: str, *arguments: str) -> Result:
        return CliRunner().invoke(getattr(commands, name), ["--data-dir", str(data_dir), *arguments], env=UNSET)

    return invoke


def test_migrate_goes_up_and_down_and_prints_the_revision(run: Callable[..., Result], data_dir: Path) -> None:
    up = run("migrate")
    assert (up.exit_code, up.output.split()[-1]) == (0, migrate.head())
    down = run("migrate", "--down-to", "base")
    assert (down.exit_code, down.output.split()[-1]) == (0, "base")
    assert migrate.current(f"sqlite:///{data_dir / 'gradinspect.db'}") is None


def test_maintain_once_prints_what_it_did(run: Callable[..., Result], data_dir: Path, broker_url: str) -> None:
    run("migrate")
    database = Database(f"sqlite:///{data_dir / 'gradinspect.db'}")
    submit(database)
    done = run("maintain", "--once", "--broker-url", broker_url)
    database.dispose()
    assert done.output == "0 queued again, 0 failed, 1 published\n"


@pytest.mark.parametrize("name", ["serve", "api", "maintain", "migrate"])
def test_a_wrong_setting_is_reported_in_one_line_with_exit_status_2(run: Callable[..., Result], name: str) -> None:
    done = run(name, "--database-url", "mysql://host/name")
    assert done.exit_code == 2
    assert done.stderr == (
        f"gradinspect {name}: GRADINSPECT_DATABASE_URL: mysql is not supported; use postgresql:// or sqlite:///\n"
    )


@pytest.mark.parametrize("name", ["serve", "api", "maintain", "migrate"])
def test_a_data_directory_that_cannot_be_created_is_reported_in_one_line(
    run: Callable[..., Result], name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    place = tmp_path / "file" / "data"
    done = run(name, "--data-dir", str(place))
    assert done.exit_code == 2
    assert done.stderr == (
        f"gradinspect {name}: GRADINSPECT_DATA_DIR: {place} cannot be made: Not a directory; choose another\n"
    )


def test_a_created_data_directory_is_closed_to_other_users(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("migrate", "--data-dir", str(tmp_path / "new")).exit_code == 0
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["maintain", "migrate"])
def test_an_unreachable_database_is_reported_in_one_line(run: Callable[..., Result], name: str) -> None:
    once = ["--once"] if name == "maintain" else []
    done = run(name, *once, "--database-url", "postgresql://nobody@127.0.0.1:1/none")
    assert done.exit_code == 1
    assert "the database cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["serve", "api", "maintain", "migrate"])
def test_help_has_examples(run: Callable[..., Result], name: str) -> None:
    done = CliRunner().invoke(getattr(commands, name), ["--help"])
    assert done.exit_code == 0
    assert f"gradinspect {name}" in done.output.partition("Examples:")[2]


def test_the_api_refuses_an_open_address_before_it_listens(run: Callable[..., Result]) -> None:
    done = run("api", "--host", "0.0.0.0")
    assert done.exit_code == 2
    assert "GRADINSPECT_HOST" in done.stderr
