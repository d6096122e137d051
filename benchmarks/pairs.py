"""Ratios on a noisy machine: CPU time of one thread in alternating runs, and the allocator's peaks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median

import torch
from torch.nn import functional

from benchmarks.allocations import memory_ratio
from benchmarks.models import Subject as BenchmarkModel
from benchmarks.peers import Peers
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.first_pass import Subject, first_pass
from gradinspect.engine.network.batch import Batch
from gradinspect.engine.network.reproducible import ordinary_graphs

Work = Callable[[], object]
Make = Callable[[], BenchmarkModel]
MakeRun = Callable[[BenchmarkModel], object]


@dataclass(frozen=True)
class Row:
    """One line of a table: the work, its ratio to a bare pass, and the goal."""

    work: str
    model: str
    ratio: float | None
    goal: float | None
    memory: float | None = None
    memory_goal: float | None = None
    note: str = ""


def chosen(models: Mapping[str, Make]) -> dict[str, Make]:
    """Return the models that the command line names, or all of them."""
    return {name: make for name, make in models.items() if name in sys.argv[1:] or len(sys.argv) == 1}


def ratio_of(work: Work, bare: Work, *, pairs: int, runs: int = 1) -> float:
    """Return the median over pairs of the CPU time of `runs` runs of work over the same number of bare runs."""
    ratios = []
    for _ in range(pairs):
        ratios.append(_cpu(work, runs) / _cpu(bare, runs))
    return median(ratios)


def _cpu(work: Work, runs: int) -> float:
    started = time.process_time()
    for _ in range(runs):
        work()
    return time.process_time() - started


def sections_input(model: BenchmarkModel, *, mode: str = "train") -> SectionInput:
    """Run the first pass over a benchmark's model and return the input of a section."""
    settings = InspectionSettings(loss="cross_entropy", mode=mode)  # type: ignore[arg-type]  # train or eval
    batch = Batch((model.inputs,), lambda _output: model.target, False, "")
    with ordinary_graphs():
        return first_pass(
            Subject(model.model, batch, 0), settings, device=torch.device("cpu"),
            custom_loss=_cross_entropy,
        )  # fmt: skip


def _cross_entropy(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
    """Return the benchmark model's loss on any number of its samples."""
    assert target is not None
    return functional.cross_entropy(output.flatten(0, -2), target.flatten())


def peer_rows(subject: BenchmarkModel, peers: Peers, *, pairs: int) -> list[Row]:
    """Return one line per installed peer: its cost, or why it refuses this model."""
    return [
        _peer_row(label, subject, make, pairs)
        for label, (package, make) in peers.items()
        if find_spec(package) is not None
    ]


def _peer_row(label: str, subject: BenchmarkModel, make: Callable[[BenchmarkModel], MakeRun], pairs: int) -> Row:
    try:
        run = make(subject)
        run(subject)
        subject.bare()
        ratio = ratio_of(lambda: run(subject), subject.bare, pairs=pairs)
        return Row(label, subject.name, ratio, None, memory_ratio(subject.model, lambda: run(subject), subject.bare))
    except Exception as error:  # noqa: BLE001  # whatever another tool raises is its answer
        return Row(label, subject.name, None, None, note=f"{type(error).__name__}: {error}".splitlines()[0][:100])


def show(title: str, rows: Sequence[Row], peers: Peers) -> None:
    """Print the table, and the peers that are not installed."""
    print(f"\n{title}\n{'work':44} {'model':8} {'× bare':>8} {'goal':>6} {'memory':>8} {'goal':>6}")
    for row in rows:
        print(
            f"{row.work:44} {row.model:8} {_number(row.ratio):>8} {_number(row.goal):>6} "
            f"{_number(row.memory):>8} {_number(row.memory_goal):>6} {row.note}".rstrip()
        )
    for label, (package, _) in peers.items():
        if find_spec(package) is None:
            print(f"{label}: not installed")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
