"""The command group: commands that are imported when they are called, and mistakes that end in a line."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import click

from gradinspect.cli.failures import Failure, failure_of

ENTRY_POINTS = "gradinspect.commands"


class _Command(NamedTuple):
    """Where a command lives, and its line in the help."""

    home: str
    line: str


# The lines stand here, and not with the commands, so that help is there before anything is imported.
COMMANDS = {
    "inspect": _Command("gradinspect.cli.inspect", "Inspect a model and show the report."),
    "audit": _Command("gradinspect.cli.audit", "Inspect a model and exit with 1 when a policy finds something."),
    "compare": _Command("gradinspect.cli.compare", "Say what changed between two reports."),
    "validate": _Command("gradinspect.cli.validate", "Check a model spec and list what it would build."),
    "completion": _Command("gradinspect.cli.completion", "Print the script that completes commands in a shell."),
}
SERVER_COMMANDS = {
    "serve": "Run the whole service on this machine: broker, database, API, worker.",
    "api": "Run the API.",
    "worker": "Run a worker, which computes inspections.",
    "maintain": "Run the maintainer: retention, lost workers, undelivered messages.",
    "migrate": "Bring the database's schema up to date.",
}


class CommandTable(click.Group):
    """`gradinspect`, whose subcommands are imported when they are needed."""

    def __init__(self, name: str, **attributes: Any) -> None:  # Any: click's own arguments
        super().__init__(
            name, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, **attributes
        )
        self.params.append(_version_option())

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Our commands, then the server's."""
        return [*COMMANDS, *_server_commands()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # as above
        """Import one command."""
        if cmd_name in COMMANDS:
            command = getattr(import_module(COMMANDS[cmd_name].home), cmd_name)
        elif (found := _server_commands().get(cmd_name)) is not None:
            command = _loaded(found)
        else:
            return None
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # as above
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.line) for name, command in COMMANDS.items()])
        server = _server_commands()
        if server:
            with formatter.section("Commands of the service"):
                formatter.write_dl([(name, SERVER_COMMANDS.get(name, f"See {name} --help.")) for name in server])

    def invoke(self, ctx: click.Context) -> Any:  # Any: whatever a command returns
        """Run the command; a mistake of the caller's ends in a line, a defect of ours in its traceback."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            raise Failure("interrupted", exit_code=130) from None
        except Exception as error:
            failure = failure_of(error)
            if failure is None:
                raise
            raise failure from None


def _server_commands() -> dict[str, EntryPoint]:
    """The service's commands that are installed, in the order of a first use."""
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    order = [*SERVER_COMMANDS, *sorted(found.keys() - SERVER_COMMANDS.keys())]
    return {name: found[name] for name in order if name in found}


def _loaded(entry: EntryPoint) -> Any:  # Any: what a package calls its command
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
