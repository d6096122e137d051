"""Cost of the first-order pass over a bare forward and backward pass, next to the goals.

Run with `python -m benchmarks.first_order [--rounds 30] [--models mlp resnet gpt]`. CPU time of one thread,
interleaved pairs with the bare pass in the same process, median of the ratios; memory is the allocator's peak over the
bare pass's. Peers are measured where they are installed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from benchmarks.allocations import memory_ratio
from benchmarks.models import MODELS, Subject
from benchmarks.pairs import peer_rows
from benchmarks.peers import PEERS
from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.network.reproducible import ordinary_graphs
from gradinspect.engine.rows.layer_rows import layer_rows, parameter_rows
from gradinspect.engine.tracing.ledger import HostLedger
from gradinspect.engine.tracing.naming import name_calls
from gradinspect.engine.tracing.readings import PassReading
from gradinspect.engine.tracing.run_pass import TracedPass

ROUNDS = {"mlp": 30, "resnet": 8, "gpt": 6}
GOALS = {
    "parameter statistics": {"mlp": 1.25, "resnet": 1.10, "gpt": 1.05},
    "all first-order diagnostics": {"mlp": 1.5, "resnet": 1.25, "gpt": 1.12},
    "peak memory": {"mlp": 0.6, "resnet": 0.8, "gpt": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=float, default=1.0, help="times the usual number")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--parts", action="store_true", help="say what each kind of reading costs on its own")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'model':8} {'what':40} {'times bare':>10} {'goal':>8}")
    for name in options.models:
        subject = MODELS[name]()
        rounds = max(int(ROUNDS[name] * options.rounds), 3)
        work = {"parameter statistics": parameter_statistics, "all first-order diagnostics": everything}
        for label, part in work.items():
            show(name, label, f"{ratio(subject, part, rounds):.2f}", f"{GOALS[label][name]:.2f}")
        show(
            name,
            "peak memory",
            f"{memory_ratio(subject.model, partial(everything, subject), subject.bare):.2f}",
            f"{GOALS['peak memory'][name]:.2f}",
        )
        if options.parts:
            for label, run in PARTS.items():
                show(name, f"  {label}", f"{ratio(subject, run, rounds):.2f}", "")
        for row in peer_rows(subject, PEERS, pairs=max(rounds // 3, 3)):
            show(name, row.work, row.note or f"{row.ratio:.2f}", "")
            if row.memory is not None:
                show(name, f"  {row.work}: peak memory", f"{row.memory:.2f}", "")


def parameter_statistics(subject: Subject) -> None:
    """Compute every gradient's moments, quantiles, histogram and flush fractions as rows."""
    index = ParameterIndex(subject.model)
    with ordinary_graphs():
        reading = TracedPass(subject.model, index, [subject.inputs], subject.loss).run_for_gradients()
    parameter_rows(reading, [], index, 1.0)


def everything(subject: Subject) -> None:
    """Run what an inspection does for the diagnostics gradients and signals, up to the rows of the report."""
    index = ParameterIndex(subject.model)
    with ordinary_graphs():
        reading = TracedPass(subject.model, index, [subject.inputs], subject.loss).run()
    names = name_calls(reading.calls, index)
    layer_rows(reading, names, index)
    parameter_rows(reading, names, index, 1.0)


class Deaf:
    """A ledger that reads only the requested kinds of values."""

    def __init__(self, *heard: str) -> None:
        self._host = HostLedger()
        self._heard = heard

    def __getattr__(self, name: str) -> Callable[..., None]:
        return getattr(self._host, name) if name in (*self._heard, "mean_and_rms", "settle") else lambda *_: None


def only(*heard: str, read: Callable[[TracedPass], PassReading] = TracedPass.run) -> Callable[[Subject], None]:
    """Run the pass with some kinds of readings only; each includes the pass's bookkeeping."""

    def run(subject: Subject) -> None:
        index, ledger = ParameterIndex(subject.model), Deaf(*heard)
        with ordinary_graphs():
            read(TracedPass(subject.model, index, [subject.inputs], subject.loss, ledger=ledger))

    return run


PARTS = {
    "hooks on parameters": only(read=TracedPass.run_for_gradients),
    "hooks, recorder and graph": only(),
    "with signals": only("norm"),
    "with pre-activations": only("amplitude"),
    "with outputs": only("output"),
    "with gradients": only("gradient"),
}


def ratio(subject: Subject, run: Callable[[Subject], None], rounds: int) -> float:
    """Return the median over interleaved pairs."""
    subject.bare()
    run(subject)
    return median(cpu_seconds(lambda: run(subject)) / cpu_seconds(subject.bare) for _ in range(rounds))


def cpu_seconds(run: Callable[[], None]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def show(model: str, what: str, measured: str, goal: str) -> None:
    print(f"{model:8} {what:40} {measured:>10} {goal:>8}", flush=True)


if __name__ == "__main__":
    main()
