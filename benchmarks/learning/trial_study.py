"""What the learning trial says of small networks: `python -m benchmarks.learning.trial_study [seeds]`.

Each network is drawn anew from every seed and judged with its own batch. The tables have the verdicts of the trial and
of the report, the best skill of SGD and of Adam, and the price in training steps. They are the source of the thresholds
in `probes/trial/yardstick.py` and of the rule `does_not_learn`.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any  # options of inspect

import torch
from torch import nn

from gradinspect import inspect
from gradinspect.contracts.report.trial import Trial
from gradinspect.engine.network.reproducible import seeded
from gradinspect.report.shown import Report
from gradinspect.testing import networks as net
from gradinspect.testing.defects import dead_biases
from gradinspect.testing.reference_networks import HEALTHY, SICK, Reference, draw_reference

TRIAL = {"steps": 2000, "seconds": 120.0}  # steps decide, so that the table does not depend on the machine
ROW = "{:32} {:13} {:9} {:>7} {:>7} {:>6} {:>7}  {}"


Draw = Callable[[], tuple[nn.Module, torch.Tensor, torch.Tensor]]  # model, inputs, targets


@dataclass(frozen=True)
class Case:
    """One network of the study.

    Attributes:
        name: its description.
        is_healthy: trains, by construction.
        draw: makes model, inputs and targets from the global random state.
        options: of `inspect`.
    """

    name: str
    is_healthy: bool
    draw: Draw
    options: dict[str, Any]


def flat(build: Callable[[], nn.Module], factor: float = 1.0) -> Draw:
    """Draw a network for 128 samples of 64 features and 10 classes."""
    return lambda: (build(), factor * torch.randn(128, 64), torch.randint(0, 10, (128,)))


def constant(weight: torch.Tensor) -> torch.Tensor:
    """Set all weights to one number."""
    return nn.init.constant_(weight, 0.1)


EXTRA = (
    Case("linear layer", True, flat(lambda: nn.Linear(64, 10)), {}),
    Case("12 sigmoid layers, default", False, flat(lambda: net.chain(nn.Sigmoid, None, depth=12)), {}),
    Case("12 ReLU layers, default", False, flat(lambda: net.chain(nn.ReLU, None, depth=12)), {}),
    Case("40 ReLU layers, Xavier", False, flat(lambda: net.chain(nn.ReLU, nn.init.xavier_normal_, depth=40)), {}),
    Case("a layer of dead ReLUs", False, flat(lambda: net.chain(nn.ReLU, net.he, depth=3, bias=dead_biases(1.0))), {}),
    Case("ReLU N(0, 0.25²), 20 layers", False, flat(lambda: net.chain(nn.ReLU, net.normal(0.25), depth=20)), {}),
    Case("all weights 0.1", False, flat(lambda: net.chain(nn.ReLU, constant, depth=3)), {}),
    Case("softmax before cross entropy", False,
         flat(lambda: nn.Sequential(net.chain(nn.ReLU, net.he), nn.Softmax(dim=1))), {}),
    Case("tanh N(0, 3²)", False, flat(lambda: net.chain(nn.Tanh, net.normal(3.0))), {}),
    Case("inputs × 1000", False, flat(lambda: net.chain(nn.Tanh, nn.init.xavier_normal_), 1000.0), {}),
)  # fmt: skip


def cases() -> Iterator[Case]:
    """Yield the reference networks and those of the prototype's table."""
    yield from EXTRA
    for references, is_healthy in ((HEALTHY, True), (SICK, False)):
        for name, reference in references.items():
            yield Case(name, is_healthy, _drawing(reference), dict(reference.options))


def study(case: Case, seed: int) -> tuple[Report, float]:
    """Inspect one network from one seed; return the report and the seconds that it took."""
    with seeded(seed, torch.device("cpu")):
        model, inputs, targets = case.draw()
        started = time.perf_counter()
        report = inspect(model, inputs, targets, seed=seed, **{"trial": TRIAL, **case.options})
    return report, time.perf_counter() - started


def main(seeds: int) -> None:
    """Print the table, and how often seeds agree."""
    torch.set_num_threads(1)
    print(ROW.format("network", "trial", "verdict", "SGD", "Adam", "steps", "s", "findings that count"))
    agreed, judged = 0, 0
    alarms: Counter[str] = Counter()
    for case in cases():
        verdicts: list[str] = []
        for seed in range(seeds):
            report, seconds = study(case, seed)
            verdicts.append(report.verdict)
            if seed == 0:
                _print(case, report, seconds)
        common = Counter(verdicts).most_common(1)[0]
        agreed, judged = agreed + common[1], judged + len(verdicts)
        kind = "healthy" if case.is_healthy else "sick"
        alarms.update(f"{kind} {verdict}" for verdict in verdicts)
        if common[1] < len(verdicts):
            print(f"    seeds disagree: {', '.join(verdicts)}", flush=True)
    print(f"\nverdicts: {dict(sorted(alarms.items()))}; {agreed} of {judged} agree with most seeds of their network")


def _print(case: Case, report: Report, seconds: float) -> None:
    trial = report.trial
    assert trial is not None
    counting = ", ".join(f.rule for f in report.findings if f.severity != "info")
    skills = (_best(trial, "sgd"), _best(trial, "adam"))
    row = (case.name[:32], trial.verdict, report.verdict, *skills, trial.steps_run, f"{seconds:.1f}", counting)
    print(ROW.format(*row), flush=True)


def _best(trial: Trial, optimizer: str) -> str:
    skills = [arm.skill for arm in trial.arms if arm.optimizer == optimizer and arm.skill is not None]
    return f"{max(skills):.2f}" if skills and max(skills) > -10 else "–"


def _drawing(reference: Reference) -> Draw:
    return lambda: draw_reference(reference)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
