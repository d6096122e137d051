"""The gate: the choice of an arm, on a loss with a known answer."""

from __future__ import annotations

import torch
from torch import nn

from gradinspect.contracts.optimizers import ASSUMED
from gradinspect.contracts.request.request import LrScalesRequest
from gradinspect.engine.network.optimizers import steps_of
from gradinspect.probes.scales.groups import make_groups
from gradinspect.probes.verify.budget import ProbeBudget
from gradinspect.probes.verify.gate import Gate
from gradinspect.probes.verify.probe_data import probe_data
from gradinspect.probes.verify.search import Arm
from gradinspect.probes.verify.training import Run, Trainer
from tests.support.networks.probed import normal, section_input

SEEDS = 3


class Valley(nn.Module):
    """Two weights whose curvatures differ by 10⁴, so that no common learning rate suits both."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.steep = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x * self.flat, x * 100 * self.steep], dim=1)


class NotingTrainer(Trainer):
    """Records the seed of every run, with the arm's first learning rate divided by its second."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # passed on as they come
        self.seeds: dict[float, set[int]] = {}

    def train(self, run: Run, *arguments: object, **options: object) -> None:
        self.seeds.setdefault(round(run.rates[0] / run.rates[1]), set()).add(run.start.seed)
        super().train(run, *arguments, **options)  # type: ignore[arg-type]  # passed on as they come


def test_the_best_candidate_must_win_again_on_seeds_not_used_for_the_choice() -> None:
    x = normal(40, 1)
    s = section_input(Valley(), x, torch.cat([2 * x, 300 * x], dim=1), loss="mse")
    trainer = NotingTrainer(s, probe_data(s), [entry for group in make_groups(s) for entry in group.entries])
    update = steps_of(ASSUMED).update
    with trainer.borrowed():
        starts = trainer.starts(SEEDS)
        gate = Gate(s, trainer, ProbeBudget.of_scales(s, LrScalesRequest()), starts, steps=30)
        uniform = Arm("uniform", update, [1.0, 1.0], 1e-4, starts)
        scaled = Arm("scaled", update, [100.0, 0.01], 1e-2, starts)
        probe = gate.probe([uniform, scaled])
    assert probe.decision is not None
    assert (probe.decision.verdict, probe.decision.arm) == ("use", "scaled")
    assert probe.confirmed is not None
    assert len(probe.confirmed[1].per_seed) == 2 * SEEDS
    assert trainer.seeds == {1: set(range(2 * SEEDS)), 10_000: set(range(2 * SEEDS))}
