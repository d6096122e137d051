"""The command group: commands that are imported when they are called, and errors that end in a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import click
from click.exceptions import NoArgsIsHelpError

from gradinspect.cli.failures import Failure, failure_of
from gradinspect.contracts.spelling import did_you_mean

ENTRY_POINTS = "gradinspect.commands"


class _Command(NamedTuple):
    """Where a command is defined, and its line in the help."""

    module: str
    function: str
    line: str


# The help lines are here and not with the commands, so that --help imports none of them.
COMMANDS = {
    "inspect": _Command("inspect", "inspect", "Inspect a model and show the report."),
    "audit": _Command("audit", "audit", "Inspect a model and exit with 1 when a policy finds something."),
    "compare": _Command("compare", "compare", "Say what changed between two reports."),
    "validate": _Command("validate", "validate", "Check a model spec and list what it would build."),
    "explain": _Command("explain", "explain", "Explain a rule: what it measures, why, its thresholds and source."),
    "list": _Command("inspections", "list_inspections", "List the inspections of a service."),
    "show": _Command("inspections", "show_inspection", "Show the report of an inspection on a service."),
    "open": _Command("inspections", "open_inspection", "Open the page of an inspection in a browser."),
    "delete": _Command("inspections", "delete_inspection", "Delete an inspection on a service."),
    "completion": _Command("completion", "completion", "Print the script that completes commands in a shell."),
}
SERVER_COMMANDS = {
    "serve": "Run the whole service on this machine: broker, database, API, worker.",
    "api": "Run the API.",
    "worker": "Run a worker, which computes inspections.",
    "maintain": "Run the maintainer: retention, lost workers, undelivered messages.",
    "keys": "Make, list and revoke the API keys of a service, at its database.",
    "migrate": "Bring the database's schema up to date.",
}


class CommandTable(click.Group):
    """`gradinspect` with its subcommands, imported when they are needed."""

    def __init__(self, name: str, **attributes: Any) -> None:  # Any: click's arguments and results
        super().__init__(
            name, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, **attributes
        )
        self.params.append(_version_option())

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """List the library's commands, then the service's."""
        return [*COMMANDS, *_server_commands()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        """Import one command."""
        if cmd_name in COMMANDS:
            module = import_module(f"gradinspect.cli.{COMMANDS[cmd_name].module}")
            command = getattr(module, COMMANDS[cmd_name].function)
        elif (entry := _server_commands().get(cmd_name)) is not None:
            command = _loaded(entry)
        else:
            return None
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name; suggest one for a misspelt name."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"there is no command {args[0]!r}{did_you_mean(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.line) for name, command in COMMANDS.items()])
        server = _server_commands()
        if server:
            with formatter.section("Commands of the service"):
                formatter.write_dl([(name, SERVER_COMMANDS.get(name, f"See {name} --help.")) for name in server])

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        """Parse the arguments of the group itself; errors as in `invoke`."""
        with _errors_in_one_form():
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a caller's mistake ends in a few lines, a defect of gradinspect in its traceback."""
        with _errors_in_one_form():
            return super().invoke(ctx)


@contextmanager
def _errors_in_one_form() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise Failure("interrupted", exit_code=130) from None
    except (Failure, NoArgsIsHelpError, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        raise failure from None


def _server_commands() -> dict[str, EntryPoint]:
    """Return the installed commands of the service, in the order in which they are first used."""
    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    order = [*SERVER_COMMANDS, *sorted(installed.keys() - SERVER_COMMANDS.keys())]
    return {name: installed[name] for name in order if name in installed}


def _loaded(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("gradinspect", "service", "workers"):
            raise
        raise Failure(f"`{entry.name}` needs {error.name}: pip install 'gradinspect[server]'", exit_code=2) from None


def _version_option() -> click.Option:
    def show(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            from gradinspect.version import __version__

            click.echo(f"gradinspect {__version__}")
            ctx.exit()

    return click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=show,
                        help="Show the version and exit.")  # fmt: skip
