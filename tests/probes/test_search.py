"""The search for a base rate, on a loss whose best rate is known."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from gradinspect.contracts.optimizers import ASSUMED
from gradinspect.contracts.request.request import LrScalesRequest
from gradinspect.engine.network.optimizers import steps_of
from gradinspect.probes.scales.groups import make_groups
from gradinspect.probes.verify.budget import ProbeBudget
from gradinspect.probes.verify.probe_data import probe_data
from gradinspect.probes.verify.search import Arm, RateSearch
from gradinspect.probes.verify.training import Trainer, Weights
from tests.support.networks.probed import normal, section_input

STEPS = 20


class Searched:
    """A search over rates on one weight w with loss (w·1 − 0)² of equal samples: a step at rate η gives w·(1 − 2η)."""

    def __init__(self, *, centre: float, seeds: int = 1, max_steps: int = 100_000) -> None:
        model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            model.weight.fill_(1.0)
        s = section_input(model, torch.ones(40, 1, dtype=torch.float64), normal(40, 1) * 0, loss="mse")
        entries = [entry for group in make_groups(s) for entry in group.entries]
        self.trainer = Trainer(s, probe_data(s), entries)
        self.budget = ProbeBudget.of_scales(s, LrScalesRequest(max_steps=max_steps))
        self.search = RateSearch(self.trainer, self.budget, lambda _fraction: None)
        with self.trainer.borrowed():
            starts = self.trainer.starts(seeds)
        self.arm = Arm("uniform", steps_of(ASSUMED).update, [1.0], centre, starts)

    @contextmanager
    def begun(self) -> Iterator[RateSearch]:
        with self.trainer.borrowed():
            yield self.search

    def rates(self) -> list[float]:
        return sorted(self.arm.rate(k) for k, _ in self.arm.runs)


@pytest.mark.parametrize("centre", [0.5, 5.0, 0.05])
def test_the_best_rate_is_the_one_nearest_to_the_newton_step(centre: float) -> None:
    case = Searched(centre=centre)
    with case.begun() as search:
        found = search.best(case.arm, STEPS)
    assert found is not None
    assert found.base_lr == pytest.approx(0.5)  # one step at 1/2 ends at w = 0, and all three centres' grids hold it


def test_the_search_goes_on_beyond_an_edge_that_is_best() -> None:
    case = Searched(centre=0.5e-4)
    with case.begun() as search:
        found = search.best(case.arm, STEPS)
    assert found is not None
    assert found.base_lr == pytest.approx(0.5)
    assert found.k == 8


def test_nothing_is_run_above_a_rate_that_diverges() -> None:
    case = Searched(centre=5.0)  # at k = 0 each step multiplies w by 1 − 2·5 = −9
    with case.begun() as search:
        search.best(case.arm, STEPS)
    assert case.arm.runs[0, 0].ended == "diverged"
    assert max(k for k, _ in case.arm.runs) == 0


def test_nothing_is_run_beyond_rates_that_fell_clearly_behind() -> None:
    case = Searched(centre=0.5)  # at k = 0 the first step ends at w = 0
    with case.begun() as search:
        search.best(case.arm, STEPS)
    assert {k for k, _ in case.arm.runs} == {-1, 0, 1}
    for k in (-1, 1):
        assert case.arm.runs[k, 0].ended == "dropped"
        assert len(case.arm.runs[k, 0].losses) in (STEPS // 4, STEPS // 2)


def test_the_refined_rate_is_between_the_best_and_its_better_neighbour() -> None:
    case = Searched(centre=0.5 / 10**0.2)  # the best rate is k = 0.4, between 0 and 1
    with case.begun() as search:
        found = search.best(case.arm, STEPS)
        assert found is not None
        refined = search.refined(case.arm, found, STEPS)
    assert (found.k, refined.k) == (0, 0.5)
    assert refined.score < found.score


def test_a_longer_search_continues_the_runs_of_a_shorter_one() -> None:
    case = Searched(centre=0.05)
    with case.begun() as search:
        search.best(case.arm, STEPS)
        short = {key: list(run.losses) for key, run in case.arm.runs.items() if run.ended is None}
        spent = case.budget.steps_run
        found = search.best(case.arm, 3 * STEPS)
    assert found is not None
    for key, losses in short.items():
        run = case.arm.runs[key]
        assert run.losses[:STEPS] == losses
    continued = [key for key in short if len(case.arm.runs[key].losses) == 3 * STEPS]
    assert case.budget.steps_run - spent < 3 * STEPS * len(short)
    assert continued


def test_the_budget_in_steps_is_never_exceeded_and_reports_that_it_cut_something_off() -> None:
    case = Searched(centre=0.05, seeds=3, max_steps=100)
    with case.begun() as search:
        assert search.best(case.arm, STEPS) is None
    assert case.budget.steps_run <= 100
    assert case.budget.is_exhausted


def test_all_seeds_of_the_best_rate_are_run_and_their_mean_decides() -> None:
    case = Searched(centre=0.5, seeds=3)
    with case.begun() as search:
        found = search.best(case.arm, STEPS)
    assert found is not None
    assert len(found.scores) == len(found.finals) == 3
    assert found.score == pytest.approx(sum(found.scores) / 3)
    assert all(math.isfinite(score) for score in found.scores)


def test_a_best_rate_at_which_a_seed_diverges_is_replaced_by_the_fastest_stable_rate() -> None:
    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight.square() * x  # loss w⁴: a step at rate η gives w·(1 − 4ηw²), stable up to 1/(2w²)

    s = section_input(Squared(), torch.ones(40, 1, dtype=torch.float64), normal(40, 1) * 0, loss="mse")
    trainer = Trainer(s, probe_data(s), [entry for group in make_groups(s) for entry in group.entries])
    search = RateSearch(trainer, ProbeBudget.of_scales(s, LrScalesRequest()), lambda _fraction: None)
    with trainer.borrowed():
        (start,) = trainer.starts(1)
        larger = replace(start, weights=lambda: Weights([torch.full((1,), 10.0, dtype=torch.float64)], []))
        arm = Arm("uniform", steps_of(ASSUMED).update, [1.0], 0.25, [start, larger])
        found = search.best(arm, STEPS)
    assert found is not None
    assert arm.score(0, 0, STEPS) < math.inf  # w = 1: one step at 1/4 ends at 0
    assert arm.runs[0, 1].ended == "diverged"  # w = 10 is stable up to 1/200 alone
    assert found.base_lr == pytest.approx(0.25 * 10**-2)
    assert arm.runs[-3, 1].ended == "diverged"


def test_a_first_run_is_dropped_when_the_seconds_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Searched(centre=0.5)
    asked = 0

    def in_time() -> bool:
        nonlocal asked
        asked += 1
        return asked <= 3

    monkeypatch.setattr(case.budget, "in_time", in_time)
    with case.begun() as search:
        assert search.best(case.arm, 100) is None
    assert case.budget.steps_run <= 3
    assert all(run.ended == "dropped" for run in case.arm.runs.values())


def test_a_budget_in_seconds_ends_when_they_have_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    s = section_input(nn.Linear(1, 1, dtype=torch.float64), normal(4, 1), normal(4, 1), loss="mse")
    probes = ProbeBudget.of_scales(s, LrScalesRequest(max_seconds=5.0))
    clock = 104.9
    assert probes.in_time()
    assert not probes.is_exhausted
    clock = 105.1
    assert not probes.in_time()
    assert probes.is_exhausted
