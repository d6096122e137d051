"""The command line as a whole: fast help, exit codes, and errors of a few lines."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gradinspect.cli import cli, group
from gradinspect.cli.failures import Failure, failure_of
from gradinspect.contracts.problems import FieldError, InspectionError, ProblemError
from gradinspect.contracts.request.policy import LEVELS
from gradinspect.rules import RULES
from gradinspect.version import __version__


def python(program: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60,
        check=False,
    )  # fmt: skip


LOADED = """
import sys
import time
from gradinspect.cli import cli
cli.main({arguments!r}, prog_name="gradinspect", standalone_mode=False)
print("loaded", *sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["inspect", "--help"], ["compare", "--help"], ["completion", "bash"]]
)
def test_help_loads_neither_torch_nor_a_server_nor_a_client(arguments: list[str], tmp_path: Path) -> None:
    done = python(LOADED.format(arguments=arguments), tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = done.stderr.rpartition("loaded")[2].split()
    assert "click" in loaded
    assert not {"torch", "numpy", "httpx", "flask", "sqlalchemy", "celery", "pydantic"} & set(loaded)


def test_validating_a_spec_needs_no_torch(tmp_path: Path) -> None:
    spec = {"input": {"shape": [4]}, "layers": [{"type": "Linear", "out_features": 3}]}
    (tmp_path / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    done = python(LOADED.format(arguments=["validate", "spec.json"]), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "15 parameters" in done.stdout
    assert not {"torch", "httpx", "flask"} & set(done.stderr.rpartition("loaded")[2].split())


def test_every_command_of_the_table_can_be_loaded() -> None:
    for name in group.COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert isinstance(command, click.Command)
        assert command.help


def test_the_help_lists_every_command_with_its_line() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    for name, command in group.COMMANDS.items():
        assert name in text
        assert command.line in text


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(cli, ["--version"]).output == f"gradinspect {__version__}\n"


def test_every_rule_can_be_explained_and_a_misspelt_one_is_suggested() -> None:
    listed = CliRunner().invoke(cli, ["explain"], catch_exceptions=False).stdout.splitlines()
    assert [line.split()[0] for line in listed] == [rule.id for rule in RULES]
    for rule in RULES:
        result = CliRunner().invoke(cli, ["explain", rule.id], catch_exceptions=False)
        words = " ".join(result.stdout.split())
        assert all(" ".join(part.split()) in words for part in (rule.title, rule.what, rule.why, rule.reference))
        sources = [default.source for level in LEVELS if (default := rule.default(level)) is not None]
        assert all(" ".join(source.split()) in words for source in sources)
    unknown = CliRunner().invoke(cli, ["explain", "vanishing"], catch_exceptions=False)
    assert (unknown.exit_code, unknown.stderr.splitlines()[0]) == (
        2, "gradinspect: there is no rule 'vanishing'; did you mean 'vanishing_signal'?",
    )  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_GRADINSPECT_COMPLETE" in result.output


@click.command()
def added() -> None:
    """Act as a command of another package."""
    click.echo("ran")


def test_commands_of_other_packages_come_through_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint(name="added", value=f"{__name__}:added", group=group.ENTRY_POINTS)
    monkeypatch.setattr(EntryPoint, "load", lambda _entry: added)
    monkeypatch.setattr(group, "entry_points", lambda **_: [entry])
    assert CliRunner().invoke(cli, ["added"]).output == "ran\n"
    assert "added" in CliRunner().invoke(cli, ["--help"]).output


def test_a_command_with_missing_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_entry: EntryPoint) -> None:
        raise ModuleNotFoundError("No module named 'flask'", name="flask")

    entry = EntryPoint(name="serve", value="service.processes.commands:serve", group=group.ENTRY_POINTS)
    monkeypatch.setattr(EntryPoint, "load", missing)
    monkeypatch.setattr(group, "entry_points", lambda **_: [entry])
    result = CliRunner().invoke(cli, ["serve"])
    assert result.exit_code == 2
    assert "pip install 'gradinspect[server]'" in result.stderr


FAILURES = [
    (ProblemError("invalid_spec", "wrong", errors=[FieldError("/layers/0", "is odd")]), 2, "/layers/0: is odd"),
    (ProblemError("not_found", "nothing there"), 2, "Check the id"),
    (InspectionError("no_gradient", "all parameters are frozen"), 3, "no_gradient: all parameters are frozen"),
    (ImportError("no torch", name="torch"), 2, "gradinspect[engine]"),
    (OSError(errno.ENOSPC, "No space left on device"), 3, "the output cannot be written: No space left on device"),
    (KeyboardInterrupt(), 130, "interrupted"),
]


@pytest.mark.parametrize(("error", "code", "says"), FAILURES, ids=lambda value: type(value).__name__)
def test_an_error_ends_in_lines_on_stderr_and_an_exit_code(
    error: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(cli, "get_command", lambda _ctx, _name: failing)
    result = CliRunner().invoke(cli, ["anything"])
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_defect_of_gradinspect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def failing() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "get_command", lambda _ctx, _name: failing)
    assert isinstance(CliRunner().invoke(cli, ["anything"]).exception, ZeroDivisionError)


def test_errors_of_the_client_have_exit_codes() -> None:
    from gradinspect.client import InspectionFailed, ServiceUnreachable
    from gradinspect.client.errors import problem_of

    codes = {
        problem_of("not_found", 404, "none"): 2,
        problem_of("too_many_requests", 429, "later"): 3,
        problem_of("internal", 500, "broken"): 3,
        InspectionFailed("insp_1", "time_limit", "took too long"): 3,
        ServiceUnreachable("http://x", "refused"): 3,
    }
    for error, code in codes.items():
        failure = failure_of(error)
        assert isinstance(failure, Failure)
        assert failure.exit_code == code


def test_control_characters_in_an_error_never_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def failing() -> None:
        raise ProblemError("invalid_spec", "bad \x1b[2J", errors=[FieldError("/\x1b]0;x\x07", "\u202eodd")])

    monkeypatch.setattr(cli, "get_command", lambda _ctx, _name: failing)
    text = CliRunner().invoke(cli, ["anything"]).stderr
    assert all(letter == "\n" or letter.isprintable() for letter in text)


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gradinspect", "inspect", "nowhere.json"], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "gradinspect: nowhere.json cannot be read: No such file or directory\n"


def test_the_names_in_the_help_are_those_of_the_request() -> None:
    from typing import get_args

    from gradinspect.cli import options
    from gradinspect.contracts.request.request import Loss
    from gradinspect.contracts.spec.tensors import FloatType, IntegerType

    assert get_args(Loss) == options.LOSSES
    assert {*get_args(FloatType), *get_args(IntegerType)} == set(options.DTYPES)


def test_ctrl_c_ends_with_130_and_a_line(tmp_path: Path) -> None:
    model = tmp_path / "model"
    os.mkfifo(model)
    child = subprocess.Popen(
        [sys.executable, "-m", "gradinspect", "inspect", str(model)],
        stderr=subprocess.PIPE,
        text=True,
        # Shells start background processes with Ctrl-C ignored, and the tests may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    writer = reached(model, child)
    wait_until_it_reads(model, child)  # a signal between two system calls would be handled only after the second
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    os.close(writer)
    assert child.returncode == 130
    assert said == "gradinspect: interrupted\n"


def wait_until_it_reads(fifo: Path, child: subprocess.Popen[str]) -> None:
    """Wait until the process has opened the pipe and sleeps."""
    process, deadline = Path(f"/proc/{child.pid}"), time.monotonic() + 60
    while time.monotonic() < deadline:
        is_open = any(link.is_symlink() and link.readlink() == fifo for link in (process / "fd").iterdir())
        if is_open and (process / "stat").read_text().rpartition(")")[2].split()[0] == "S":
            return
    raise AssertionError("the command never read its model")


def reached(fifo: Path, child: subprocess.Popen[str]) -> int:
    """Open a pipe for writing as soon as a process reads from it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(OSError):  # no reader yet
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    raise AssertionError("the command never opened its model")
