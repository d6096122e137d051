"""A progress display on stderr, when that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, float], None]


@contextmanager
def shown_progress(title: str) -> Iterator[Progress]:
    """Show stages while the block runs; show nothing when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda _stage, _fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Display

    from gradinspect.report.words.figures import printable

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        TextColumn("{task.fields[stage]}", markup=False),
        TimeElapsedColumn(),
    )
    with Display(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(printable(title), total=1.0, stage="")

        def show(stage: str, fraction: float) -> None:
            display.update(task, completed=fraction, stage=printable(stage))

        yield show
