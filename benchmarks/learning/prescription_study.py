"""Sick networks and their prescriptions: `python -m benchmarks.learning.prescription_study`.

For every network: is the verdict a pass, is the cause named, is a prescription found, and does the printed block train
the network when it is pasted into a plain loop on new seeds? The loop shares no code with the search.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gradinspect import inspect
from gradinspect.contracts.report.report import Report

SEEDS = (101, 202)  # of the pasted runs; the search uses 0, 1 and 2
STEPS = 200
LEARNED = 0.5  # of the way from the best constant output to a perfect one

Batch = tuple[torch.Tensor, torch.Tensor]
Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Case:
    """One sick network.

    Attributes:
        make: draws the network, from torch's global seed.
        causes: rules, or actions of the prescription, of which each names the cause.
        optimizer: as declared.
        loss: of the inspection and of the pasted loop.
        batch: makes inputs and targets.
    """

    make: Make
    causes: tuple[str, ...]
    batch: Callable[[], Batch]
    loss: str = "cross_entropy"
    optimizer: dict[str, Any] | None = field(default_factory=lambda: {"type": "sgd", "lr": 0.1})


def flat(*, scale: float = 1.0, shift: float = 0.0) -> Callable[[], Batch]:
    """Return a maker of 128 vectors of 32 features and 10 classes."""

    def make() -> Batch:
        draws = torch.Generator().manual_seed(5)
        x = torch.randn(128, 32, generator=draws)
        return scale * x + shift, (x @ torch.randn(32, 10, generator=draws)).argmax(1)

    return make


def images() -> Batch:
    """Make 64 images of 3×8×8 and 10 classes."""
    draws = torch.Generator().manual_seed(6)
    x = torch.randn(64, 3, 8, 8, generator=draws)
    return x, (x.flatten(1) @ torch.randn(192, 10, generator=draws)).argmax(1)


def regression(*, scale: float = 1.0, shift: float = 0.0) -> Callable[[], Batch]:
    """Return a maker of 128 vectors and one target each."""

    def make() -> Batch:
        x, _ = flat()()
        return x, scale * torch.tanh(x[:, :4].sum(1, keepdim=True)) + shift

    return make


def sequences() -> Batch:
    """Make 64 sequences of 40 vectors, whose class the first vector decides."""
    draws = torch.Generator().manual_seed(7)
    x = torch.randn(64, 40, 8, generator=draws)
    return x, (x[:, 0] @ torch.randn(8, 4, generator=draws)).argmax(1)


def chain(
    activation: Callable[[], nn.Module],
    depth: int,
    *,
    width: int = 64,
    init: Callable[[torch.Tensor], Any] | None = None,
    bias: float | None = None,
    end: Callable[[], nn.Module] | None = None,
    outputs: int = 10,
) -> Make:
    """Return a maker of a chain of linear layers."""

    def make() -> nn.Module:
        sizes = [32, *[width] * depth]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), activation())]
        model = nn.Sequential(*layers, nn.Linear(width, outputs), *([end()] if end is not None else []))
        for module in model.modules():
            if isinstance(module, nn.Linear):
                if init is not None:
                    init(module.weight)
                if bias is not None:
                    nn.init.constant_(module.bias, bias)
        return model

    return make


class Functional(nn.Module):
    """Convolutions whose activation is a function."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], depth: int = 10) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList([nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(depth)])
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        for layer in self.layers:
            x = self.function(layer(x))
        return torch.as_tensor(self.head(x.mean((2, 3))))


class Blocks(nn.Module):
    """Residual blocks without normalisation."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Linear(32, 64)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(depth)]
        )
        self.head = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return torch.as_tensor(self.head(x))


class Recurrent(nn.Module):
    """A recurrent network that reads the last step."""

    def __init__(self, kind: Callable[..., nn.Module], gain: float | None = None, **arguments: Any) -> None:
        super().__init__()
        self.cell, self.head = kind(8, 32, batch_first=True, **arguments), nn.Linear(32, 4)
        if gain is not None:
            for name, weight in self.cell.named_parameters():
                if "weight_hh" in name:
                    nn.init.orthogonal_(weight, gain=gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return torch.as_tensor(self.head(self.cell(x)[0][:, -1]))


def normal(std: float) -> Callable[[torch.Tensor], Any]:
    """Return a draw from N(0, std²)."""
    return lambda weight: nn.init.normal_(weight, std=std)


def constant(value: float) -> Callable[[torch.Tensor], Any]:
    """Return a draw of one value."""
    return lambda weight: nn.init.constant_(weight, value)


XAVIER = nn.init.xavier_normal_
SLOPE = ("vanishing_signal", "replace_activation", "replace_function", "saturated_activation", "does_not_learn")
SCALE = ("vanishing_signal", "exploding_signal", "initialize", "poor_initialization", "saturated_activation")
RATE = ("learning_rate", "update_ratio", "sharpness", "set_optimizer", "optimizer_step")
FAST = {"type": "sgd", "lr": 0.01}
CASES: dict[str, Case] = {
    "sigmoid × 6, default": Case(chain(nn.Sigmoid, 6), SLOPE, flat()),
    "sigmoid × 9, Xavier": Case(chain(nn.Sigmoid, 9, init=XAVIER), SLOPE, flat()),
    "sigmoid × 12, default, Adam": Case(chain(nn.Sigmoid, 12), SLOPE, flat(), optimizer={"type": "adam", "lr": 1e-3}),
    "sigmoid × 9, nothing declared": Case(chain(nn.Sigmoid, 9), SLOPE, flat(), optimizer=None),
    "hardsigmoid × 8": Case(chain(nn.Hardsigmoid, 8), SLOPE, flat()),
    "sigmoid function, convolutions": Case(lambda: Functional(torch.sigmoid), SLOPE, images),
    "tanh function, convolutions": Case(lambda: Functional(torch.tanh, 16), (*SLOPE, *SCALE), images),
    "tanh × 30, default": Case(chain(nn.Tanh, 30), SCALE, flat()),
    "tanh × 15, N(0, 0.02²)": Case(chain(nn.Tanh, 15, init=normal(0.02)), SCALE, flat()),
    "tanh × 6, N(0, 1)": Case(chain(nn.Tanh, 6, init=normal(1.0)), SCALE, flat()),
    "tanh × 10, N(0, 3²)": Case(chain(nn.Tanh, 10, init=normal(3.0)), SCALE, flat()),
    "ReLU × 12, default": Case(chain(nn.ReLU, 12), SCALE, flat()),
    "ReLU × 20, default": Case(chain(nn.ReLU, 20), SCALE, flat()),
    "ReLU × 40, Xavier": Case(chain(nn.ReLU, 40, init=XAVIER), (*SCALE, "correlation_collapse"), flat()),
    "ReLU × 10, N(0, 0.01²)": Case(chain(nn.ReLU, 10, init=normal(0.01)), SCALE, flat()),
    "ReLU × 20, N(0, 0.25²)": Case(chain(nn.ReLU, 20, init=normal(0.25)), SCALE, flat()),
    "ReLU × 15, N(0, 0.5²)": Case(chain(nn.ReLU, 15, init=normal(0.5)), SCALE, flat()),
    "GELU × 16, default": Case(chain(nn.GELU, 16), SCALE, flat()),
    "SiLU × 14, default": Case(chain(nn.SiLU, 14), SCALE, flat()),
    "leaky ReLU × 20, N(0, 0.02²)": Case(chain(nn.LeakyReLU, 20, init=normal(0.02)), SCALE, flat()),
    "ReLU6 × 12, N(0, 1)": Case(chain(nn.ReLU6, 12, init=normal(1.0)), (*SCALE, *SLOPE, "dead_units"), flat()),
    "softsign × 20, default": Case(chain(nn.Softsign, 20), (*SCALE, *SLOPE), flat()),
    "all biases −30": Case(chain(nn.ReLU, 3, bias=-30.0), ("dead_units", "revive_units"), flat()),
    "biases −8": Case(chain(nn.ReLU, 4, bias=-8.0), ("dead_units", "revive_units"), flat()),
    "weights 0": Case(chain(nn.ReLU, 4, init=constant(0.0)), ("zero_gradient", "redraw_weights"), flat()),
    "weights 0.1": Case(chain(nn.ReLU, 3, init=constant(0.1)), ("symmetry", "redraw_weights"), flat()),
    "weights 0.03, tanh": Case(chain(nn.Tanh, 3, init=constant(0.03)), ("symmetry", "redraw_weights"), flat()),
    "inputs × 1000": Case(chain(nn.ReLU, 3), ("input_scale", "standardise_inputs"), flat(scale=1e3), optimizer=FAST),
    "inputs + 500": Case(chain(nn.ReLU, 3), ("input_scale", "standardise_inputs"), flat(shift=500.0), optimizer=FAST),
    "inputs × 1e-4": Case(chain(nn.ReLU, 3), ("input_scale", "standardise_inputs"), flat(scale=1e-4), optimizer=FAST),
    "inputs × 200, tanh": Case(chain(nn.Tanh, 3), ("input_scale", "standardise_inputs"), flat(scale=200.0)),
    "targets × 1e4": Case(
        chain(nn.ReLU, 2, outputs=1), ("target_scale", "standardise_targets"), regression(scale=1e4), "mse"
    ),
    "targets + 1e3": Case(
        chain(nn.ReLU, 2, outputs=1), ("target_scale", "standardise_targets"), regression(shift=1e3), "mse"
    ),
    "softmax before cross entropy": Case(
        chain(nn.ReLU, 2, end=lambda: nn.Softmax(dim=1)), ("output_activation", "remove_output_activation"), flat()
    ),
    "sigmoid before cross entropy": Case(
        chain(nn.ReLU, 2, end=nn.Sigmoid), ("output_activation", "remove_output_activation"), flat()
    ),
    "ReLU at a signed output": Case(
        chain(nn.ReLU, 2, outputs=1, end=nn.ReLU), ("output_activation", "remove_output_activation"),
        regression(shift=-2.0), "mse",
    ),
    "tanh at an output of ±5": Case(
        chain(nn.ReLU, 2, outputs=1, end=nn.Tanh), ("output_activation", "remove_output_activation", "target_scale"),
        regression(scale=5.0), "mse",
    ),
    "SGD 300": Case(chain(nn.ReLU, 3), RATE, flat(), optimizer={"type": "sgd", "lr": 300.0}),
    "SGD 1e-9": Case(chain(nn.ReLU, 3), RATE, flat(), optimizer={"type": "sgd", "lr": 1e-9}),
    "Adam 10": Case(chain(nn.ReLU, 3), RATE, flat(), optimizer={"type": "adam", "lr": 10.0}),
    "Adam 1e-9": Case(chain(nn.ReLU, 3), RATE, flat(), optimizer={"type": "adam", "lr": 1e-9}),
    "30 residual blocks": Case(lambda: Blocks(30), ("exploding_signal", "scale_weights", "initialize"), flat()),
    "RNN × 2.5": Case(
        lambda: Recurrent(nn.RNN, 2.5, nonlinearity="relu"), ("exploding_signal", "orthogonal_recurrence"), sequences
    ),
    "tanh RNN, default": Case(
        lambda: Recurrent(nn.RNN), ("vanishing_signal", "orthogonal_recurrence", "learning_rate"), sequences
    ),
}  # fmt: skip


def is_cause_named(case: Case, report: Report) -> bool:
    """Check for a finding that counts, or a change that cured, of the true cause."""
    found = {finding.rule for finding in report.findings if finding.severity != "info"}
    cured = {change.action for change in report.prescription.changes} if report.prescription is not None else set()
    return bool((found | cured) & set(case.causes))


def pasted_skill(case: Case, code: str, seed: int) -> float:
    """Paste the block, train with a plain loop, and return the skill at the end.

    Args:
        case: whose network is drawn anew.
        code: as printed.
        seed: of the draw.
    """
    torch.manual_seed(seed)
    x, y = case.batch()
    scope: dict[str, Any] = {"model": case.make()}
    exec(code, scope)
    if "prepare" in scope:
        x, y = scope["prepare"](x, y)
    model, optimizer = scope["model"], scope["optimizer"]
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        output = model(x)
        loss = functional.cross_entropy(output, y) if case.loss == "cross_entropy" else functional.mse_loss(output, y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    if case.loss == "cross_entropy":
        shares = torch.bincount(y).double() / len(y)
        chance = -float(torch.xlogy(shares, shares).sum())
    else:
        chance = float(y.var(unbiased=False))
    end = sum(losses[-5:]) / 5
    return (chance - end) / chance if math.isfinite(end) else -math.inf


def study(names: list[str], seconds: float) -> bool:
    """Print a row a network and the totals; return whether all bounds hold."""
    passes = named = found = learned = 0
    print("| network | verdict | cause named | prescription | changes | skill of pasted code |")
    print("|---|---|---|---|---|---|")
    for name in names:
        case = CASES[name]
        torch.manual_seed(0)
        x, y = case.batch()
        budget = {"steps": 2000, "seconds": seconds}
        report = inspect(case.make(), x, y, loss=case.loss, optimizer=case.optimizer, trial=budget)  # type: ignore[arg-type]
        prescription = report.prescription
        assert prescription is not None
        skills = [pasted_skill(case, prescription.code, seed) for seed in SEEDS] if prescription.code else []
        is_named = is_cause_named(case, report)
        passes += report.verdict == "pass"
        named += is_named
        found += prescription.outcome == "found"
        learned += bool(skills) and min(skills) >= LEARNED
        actions = ", ".join(change.action for change in prescription.changes) or prescription.reason or ""
        shown = ", ".join(f"{skill:.2f}" for skill in skills) or "–"
        cells = (name, report.verdict, "yes" if is_named else "no", prescription.outcome, actions, shown)
        print(f"| {' | '.join(cells)} |", flush=True)
    count = len(names)
    print(
        f"\n{count} networks: {passes} pass, cause named in {named / count:.0%}, found in {found / count:.0%}, ", end=""
    )
    print(f"pasted code learns in {learned / max(found, 1):.0%} of those")
    return passes == 0 and named >= 0.85 * count and found >= 0.7 * count and learned >= 0.9 * found


def main() -> int:
    """Run the study; the exit code is 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="run the networks whose names contain this text")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each trial, and of each prescription")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in CASES if options.only is None or options.only in name]
    return 0 if study(names, options.seconds) else 1


if __name__ == "__main__":
    raise SystemExit(main())
