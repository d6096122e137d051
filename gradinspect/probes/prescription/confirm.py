"""The confirmation of a plan: the same block on further seeds, past the point at which a trial would stop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from gradinspect.contracts.optimizers import Optimizer
from gradinspect.engine.network.reproducible import ordinary_graphs, seeded
from gradinspect.probes.prescription.attempt import Executed, Plan, execute
from gradinspect.probes.prescription.patient import Patient
from gradinspect.probes.trial.yardstick import Yardstick, outcome_of, smoothed_end
from gradinspect.probes.verify.budget import ProbeBudget
from gradinspect.probes.verify.trained_parameters import suitable_threads

SEEDS = 3  # the one of the search and two more
STEPS, FURTHER_STEPS, FEWEST_STEPS = 150, 80, 40  # of the first run, of the others; a rate too high diverges by then


@dataclass(frozen=True)
class Confirmation:
    """The runs of a plan on several seeds.

    Attributes:
        curve: losses on the first seed.
        skill: at its end.
        seeds: that were run; the model learned with all of them.
    """

    curve: tuple[float | None, ...]
    skill: float
    seeds: int


def confirm(patient: Patient, plan: Plan, optimizer: Optimizer, budget: ProbeBudget) -> Confirmation | None:
    """Run a plan on up to three seeds; None where the model does not learn with one of them.

    A seed is a new initialisation where the model is built from a spec. Elsewhere it draws anew what the block draws,
    and dropout. Where the budget ends, the seeds so far count.

    Cost: at most 310 steps; a quarter of what is left of the budget for each seed.
    """
    first: tuple[tuple[float | None, ...], float] | None = None
    count = 0
    for index in range(SEEDS):
        steps = min(FURTHER_STEPS if index else STEPS, (budget.max_steps - budget.steps_run) // 4)
        if not budget.allows(FEWEST_STEPS) or steps < FEWEST_STEPS:
            break
        seed = (patient.seed + index) % 2**63
        try:
            losses, scale = _losses(execute(patient, plan, optimizer, seed=seed), budget, steps, seed)
        except Exception:  # noqa: BLE001  # the changed model may raise anything
            return None
        if len(losses) < FEWEST_STEPS and all(map(math.isfinite, losses)):
            break  # out of time
        if outcome_of(losses, scale) != "learns":
            return None
        count += 1
        if first is None:
            curve = tuple(float(f"{loss:.6g}") if math.isfinite(loss) else None for loss in losses)
            first = (curve, scale.skill(smoothed_end(losses)))
    return Confirmation(*first, count) if first is not None else None


def _losses(executed: Executed, budget: ProbeBudget, steps: int, seed: int) -> tuple[list[float], Yardstick]:
    """Train for a number of steps; end when the loss is not finite or the time is over."""
    model, optimizer = executed.model, executed.optimizer
    task = executed.task
    losses: list[float] = []
    elements = sum(tensor.numel() for tensor in model.parameters())
    samples = task.inputs[0].shape[0] if task.inputs and task.inputs[0].dim() else 1
    model.train(task.mode == "train")
    with ordinary_graphs(), torch.enable_grad(), seeded(seed, task.device), suitable_threads(elements * samples):
        for _ in range(steps):
            if losses and not budget.in_time():
                break
            loss = task.loss_of(model)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            budget.spend(1)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                break
    return losses, Yardstick.of(chance=task.chance_loss, floor=task.floor_loss, first=losses[0])
