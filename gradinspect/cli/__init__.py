"""The command `gradinspect`: local and remote inspections for a terminal and for CI.

What may live here: one file for each command, the options they share, and the files they read. What may not:
computing, judging, HTTP. A command is imported when it is called, so `gradinspect --help` loads neither torch nor a
server. Commands of the service (serve, worker, …) come from its packages, through the entry points
`gradinspect.commands`.
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
    """Run the command line; write a question mark for what the terminal cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    cli.main(prog_name="gradinspect")
