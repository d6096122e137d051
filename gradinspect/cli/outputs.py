"""Outputs of a command: the terminal, stdout, files."""

from __future__ import annotations

import sys
from pathlib import Path
from shutil import get_terminal_size

import click

from gradinspect.cli.failures import WRONG_CALL, Failure
from gradinspect.report.text.terminal import WIDEST

DEFAULT_WIDTH = 100  # columns, when stdout is not a terminal


def terminal_width() -> int:
    """Return the number of columns to fill."""
    return min(get_terminal_size((DEFAULT_WIDTH, 24)).columns, WIDEST)


def wants_color() -> bool:
    """Return whether stdout is a terminal that shows colours, and NO_COLOR is not set."""
    from rich.console import Console

    console = Console(file=sys.stdout)
    return console.is_terminal and not console.no_color and not console.is_dumb_terminal


def write_file(path: str, text: str) -> None:
    """Write an output; `-` is stdout."""
    if path == "-":
        click.echo(text, nl=False)
        return
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror or error}", exit_code=WRONG_CALL) from None
