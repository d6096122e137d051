"""The command `gradinspect`: local and remote inspections for a terminal and for CI.

One file a command, imported when it is called: `gradinspect --help` loads neither torch nor a server. Commands of the
server (serve, worker, …) come from the packages that hold them, through the entry points `gradinspect.commands`.
"""

from __future__ import annotations

import sys

from gradinspect.cli.group import CommandTable

__all__ = ["cli", "main"]

cli = CommandTable(
    "gradinspect",
    help="Tell whether gradients will flow through a network before it is trained, why not, and what to change.",
)


def main() -> None:
    """Run the command line; what the terminal cannot encode is written as a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    cli.main(prog_name="gradinspect")
