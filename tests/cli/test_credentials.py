"""The key of a command: the option, its variable, the file of profiles; and what is printed without one."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gradinspect.cli.credentials import current_key, key_option
from gradinspect.cli.failures import WRONG_CALL, Failure, failure_of
from gradinspect.client.errors import problem_of

SERVER = "https://gradinspect.example"


@click.command()
@key_option
def show() -> None:
    click.echo(current_key(SERVER))


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "gradinspect" / "profiles.toml"
    path.parent.mkdir()
    return path


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def test_the_option_counts_more_than_the_variable_and_that_more_than_the_profile(profiles: Path) -> None:
    write(profiles, f'[production]\nserver = "{SERVER}/"\nkey = "gi_profile"\n')
    run = CliRunner()
    assert run.invoke(show, [], env={"GRADINSPECT_KEY": None}).output == "gi_profile\n"
    assert run.invoke(show, [], env={"GRADINSPECT_KEY": "gi_variable"}).output == "gi_variable\n"
    assert run.invoke(show, ["--key", "gi_option"], env={"GRADINSPECT_KEY": "gi_variable"}).output == "gi_option\n"


def test_a_profile_of_another_service_gives_no_key(profiles: Path) -> None:
    assert current_key(SERVER) is None
    write(profiles, '[other]\nserver = "https://other.example"\nkey = "gi_other"\n')
    assert current_key(SERVER) is None


@pytest.mark.parametrize(("text", "mode"), [("[a]\n", 0o644), ("no toml", 0o600)])
def test_a_file_of_profiles_that_is_open_or_wrong_is_refused(profiles: Path, text: str, mode: int) -> None:
    write(profiles, text, mode)
    with pytest.raises(Failure, match=r"profiles\.toml") as failure:
        current_key(SERVER)
    assert failure.value.exit_code == WRONG_CALL


def test_a_refused_key_is_explained_for_the_command_line() -> None:
    failure = failure_of(problem_of("unauthenticated", 401, "this service needs a key", hint="Send a header."))
    assert failure is not None
    assert "--key" in failure.hint
    assert failure.exit_code == WRONG_CALL
