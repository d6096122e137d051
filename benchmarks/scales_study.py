"""Study of learning-rate scales and their verification on small networks and scikit-learn's bundled data.

Every cell is one network, optimizer and seed: the whole suggestion is made, and where its verdict is `use`, its scales
are compared with uniform rates on initialisations that the gate has not seen, over 300 steps, each at its best base
rate. The null arm gives the gate random scales of ±0.1 powers of ten, which it must not accept. Finished cells are
appended to a file of JSON lines, and a later run resumes where an earlier one stopped.

Run with `python -m benchmarks.scales_study [--out FILE] [--minutes M] [--seeds N]`, or `--table` for the table alone.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from torch import nn

from gradinspect.contracts.document import from_python
from gradinspect.contracts.optimizers import ASSUMED
from gradinspect.contracts.report.sections import LrScales
from gradinspect.contracts.request.request import InspectionSettings, LrScalesRequest
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.first_pass import Subject, first_pass
from gradinspect.engine.network.batch import Batch
from gradinspect.engine.network.optimizers import steps_of
from gradinspect.engine.network.reproducible import generator
from gradinspect.probes.lr_scales import suggest_scales
from gradinspect.probes.scales.groups import make_groups
from gradinspect.probes.verify.budget import ProbeBudget
from gradinspect.probes.verify.curves import final_loss
from gradinspect.probes.verify.gate import Gate
from gradinspect.probes.verify.probe_data import probe_data
from gradinspect.probes.verify.search import Arm, RateSearch
from gradinspect.probes.verify.training import Trainer

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"type": "sgd", "lr": 0.1},
    "momentum": {"type": "sgd", "lr": 0.1, "momentum": 0.9},
}
FIRST_SEED = 20_000  # seeds from here on were not used while the gate was written
UNSEEN = 500  # added to a cell's seed for the initialisations that judge its suggestion
HORIZON = 300
SEEDS = 3
NULL_CELLS = 64
NULL_DEX = 0.1


class Net(NamedTuple):
    """A network to study: its data, how it is drawn, and the expected verdict."""

    data: str
    draw: Callable[[int, int], nn.Module]
    is_healthy: bool = False
    goal: float | None = None


def chain(depth: int, activation: type[nn.Module], draw: Callable[[nn.Linear, int], None], *parts: Any) -> Any:
    """Return a function that draws `depth` hidden layers of 32 units, with `parts` after each linear layer."""

    def make(inputs: int, classes: int) -> nn.Module:
        layers: list[nn.Module] = []
        for index in range(depth):
            layers += [nn.Linear(inputs if index == 0 else 32, 32), *(part(32) for part in parts), activation()]
        layers.append(nn.Linear(32, classes))
        for index, layer in enumerate(layer for layer in layers if isinstance(layer, nn.Linear)):
            draw(layer, index)
        return nn.Sequential(*layers)

    return make


def glorot(layer: nn.Linear, _index: int) -> None:
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)


def he(layer: nn.Linear | nn.Conv2d, _index: int) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def uneven(*gains: float) -> Callable[[nn.Linear, int], None]:
    def draw(layer: nn.Linear, index: int) -> None:
        he(layer, index)
        with torch.no_grad():
            layer.weight.mul_(gains[index % len(gains)])

    return draw


def default(_layer: nn.Linear, _index: int) -> None:
    """Keep torch's initialisation."""


def convolutional(_inputs: int, classes: int) -> nn.Module:
    net = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, classes),
    )  # fmt: skip
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            he(layer, 0)
    return net


NETS: dict[str, Net] = {
    "sigmoid 5×32 Glorot, digits": Net("digits", chain(5, nn.Sigmoid, glorot), goal=0.75),
    "sigmoid 5×32 Glorot, breast cancer": Net("breast_cancer", chain(5, nn.Sigmoid, glorot), goal=0.3),
    "sigmoid 4×32 Glorot, wine": Net("wine", chain(4, nn.Sigmoid, glorot), goal=0.15),
    "sigmoid 3×32 default, digits": Net("digits", chain(3, nn.Sigmoid, default), goal=0.7),
    "ReLU 4×32 uneven ×5 ÷5, digits": Net("digits", chain(4, nn.ReLU, uneven(5.0, 0.2)), goal=0.8),
    "ReLU 4×32 uneven ÷5 ×5, digits": Net("digits", chain(4, nn.ReLU, uneven(0.2, 5.0)), goal=0.8),
    "ReLU 4×32 He, digits": Net("digits", chain(4, nn.ReLU, he), is_healthy=True),
    "ReLU 3×32 He, breast cancer": Net("breast_cancer", chain(3, nn.ReLU, he), is_healthy=True),
    "tanh 4×32 Glorot, digits": Net("digits", chain(4, nn.Tanh, glorot), is_healthy=True),
    "ReLU 4×32 BatchNorm, digits": Net("digits", chain(4, nn.ReLU, he, nn.BatchNorm1d), is_healthy=True),
    "GELU 4×32 LayerNorm, digits": Net("digits", chain(4, nn.GELU, he, nn.LayerNorm), is_healthy=True),
    "ReLU convolutions He, digits": Net("digits", convolutional, is_healthy=True),
}
DEEP = "sigmoid 10×32 Glorot, digits"
DEEP_NET = Net("digits", chain(10, nn.Sigmoid, glorot))


@dataclass(frozen=True)
class Cell:
    """One line of the results."""

    part: str
    net: str
    optimizer: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.part} | {self.net} | {self.optimizer} | {self.seed}"


def cells(seeds: int) -> Iterator[Cell]:
    """List all cells; those that every row of the table needs come first."""
    yield from (Cell("net", name, "sgd", FIRST_SEED) for name in NETS)
    yield Cell("deep", DEEP, "sgd", FIRST_SEED)
    yield from null_cells(NULL_CELLS)
    for index in range(seeds):
        for optimizer in OPTIMIZERS:
            yield from (Cell("net", name, optimizer, FIRST_SEED + 10 * index) for name in NETS)
            yield Cell("deep", DEEP, optimizer, FIRST_SEED + 10 * index)


def null_cells(count: int) -> Iterator[Cell]:
    """List cells with random scales, spread over the networks and optimizers."""
    for index in range(count):
        net, optimizer = list(NETS)[index % len(NETS)], list(OPTIMIZERS)[index // len(NETS) % 2]
        yield Cell("null", net, optimizer, FIRST_SEED + 5_000 + 10 * index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("scales_study.jsonl"))
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print the table of what is in the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        run(list(cells(options.seeds)), options.out, deadline=time.monotonic() + 60 * options.minutes)
    print_table(read(options.out))


def run(todo: Sequence[Cell], out: Path, *, deadline: float = math.inf) -> None:
    """Run the cells that the file does not contain yet, and append each as it ends."""
    for cell in todo:
        if cell.key in {record["key"] for record in read(out)} or time.monotonic() > deadline:
            continue
        started = time.process_time()
        record: dict[str, Any] = {"key": cell.key, "part": cell.part, "net": cell.net, "optimizer": cell.optimizer}
        record |= run_null(cell) if cell.part == "null" else run_cell(cell)
        record["cpu_seconds"] = round(time.process_time() - started, 1)
        with out.open("a") as file:
            file.write(json.dumps(record) + "\n")


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def run_cell(cell: Cell) -> dict[str, Any]:
    """Make the suggestion and try it on seeds that the verification did not use."""
    s = subject(cell, cell.seed)
    section = suggest_scales(s).section
    assert isinstance(section, LrScales)
    found: dict[str, Any] = {
        "verdict": section.verdict,
        "method": section.method,
        "reason": section.reason,
        "steps": section.evidence.steps if section.evidence is not None else 0,
        "steps_run": section.evidence.steps_run if section.evidence is not None else 0,
        "candidates": {c.method: [c.spread_dex, c.ratio] for c in section.candidates},
        "remedies": {remedy.name: [remedy.learned, remedy.loss_ratio] for remedy in section.remedies},
    }
    if section.verdict == "use":
        found["unseen"], found["unseen_mean"] = unseen_ratios(cell, section)
    return found


def unseen_ratios(cell: Cell, section: LrScales) -> tuple[list[float], list[float]]:
    """Compare with uniform rates per unseen initialisation: the loss after 300 steps, and the verification's statistic.

    Each arm uses the rate that is best for the compared quantity.
    """
    s = subject(cell, cell.seed + UNSEEN)
    groups = make_groups(s)
    per_entry = [g.scale or 1.0 for g, group in zip(section.groups, groups, strict=True) for _ in group.entries]
    assert section.evidence is not None
    rate_of = {curve.arm: curve.base_lr for curve in reversed(section.evidence.curves)}
    trainer = Trainer(s, probe_data(s), [entry for group in groups for entry in group.entries])
    search = RateSearch(trainer, unlimited(s), lambda _fraction: None)
    update = steps_of(s.settings.optimizer or ASSUMED).update
    with trainer.borrowed():
        starts = trainer.starts(SEEDS)
        chosen = rate_of[section.method or ""]
        uniform = Arm("uniform", update, [1.0] * len(per_entry), rate_of.get("uniform", chosen), starts)
        scaled = Arm("scaled", update, per_entry, chosen, starts)
        ends, scores = zip(*(lowest(search, arm) for arm in (scaled, uniform)), strict=True)
    return (
        [a / b for a, b in zip(*ends, strict=True)],
        [math.exp(a - b) for a, b in zip(*scores, strict=True)],
    )


def lowest(search: RateSearch, arm: Arm) -> tuple[list[float], Sequence[float]]:
    """Return per seed the final losses at the rate where their geometric mean is lowest, and the lowest A."""
    found = search.best(arm, HORIZON)
    if found is None:
        return [math.inf] * len(arm.starts), [math.inf] * len(arm.starts)
    found = search.refined(arm, found, HORIZON)
    rates = sorted({k for k, _ in arm.runs if not math.isinf(arm.mean_score(k, HORIZON))})
    ends = [[final_loss(arm.runs[k, seed].losses) for seed in range(len(arm.starts))] for k in rates]
    return min(ends, key=geometric_mean), found.scores


def run_null(cell: Cell) -> dict[str, Any]:
    """Verify random scales."""
    s = subject(cell, cell.seed)
    groups = make_groups(s)
    draws = generator(cell.seed, "null")
    dex = (2 * torch.rand(len(groups), generator=draws, dtype=torch.float64) - 1) * NULL_DEX
    scales = (10 ** (dex - dex.mean())).tolist()
    entries = [entry for group in groups for entry in group.entries]
    per_entry = [scale for scale, group in zip(scales, groups, strict=True) for _ in group.entries]
    trainer = Trainer(s, probe_data(s), entries)
    update = steps_of(s.settings.optimizer or ASSUMED).update
    with trainer.borrowed():
        starts = trainer.starts(SEEDS)
        gate = Gate(s, trainer, unlimited(s), starts, steps=100)
        arms = [Arm("uniform", update, [1.0] * len(entries), 0.1, starts), Arm("null", update, per_entry, 0.1, starts)]
        probe = gate.probe(arms)
    comparison = probe.comparison("null")
    verdict = probe.decision.verdict if probe.decision is not None else "undetermined"
    return {"verdict": verdict, "ratio": comparison.ratio if comparison is not None else None}


def subject(cell: Cell, seed: int) -> SectionInput:
    """Run a first pass over the cell's network at a seed."""
    net = DEEP_NET if cell.net == DEEP else NETS[cell.net]
    x, y = samples(net.data)

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return net.draw(x.shape[1], int(y.max()) + 1)

    asked = {"optimizer": OPTIMIZERS[cell.optimizer], "lr_scales": {"max_seconds": 3600.0, "seeds": SEEDS}}
    batch = Batch((x,), lambda _output: y, False, "")
    settings = from_python(InspectionSettings, asked)
    return first_pass(Subject(build(seed), batch, seed, build), settings, device=torch.device("cpu"))


def unlimited(s: SectionInput) -> ProbeBudget:
    return ProbeBudget.of_scales(s, LrScalesRequest(max_steps=10_000_000, max_seconds=86_400.0))


@cache
def samples(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return standardised inputs, and classes."""
    load = {"digits": load_digits, "breast_cancer": load_breast_cancer, "wine": load_wine}[name]
    inputs, classes = load(return_X_y=True)
    x = torch.tensor(inputs, dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-6), torch.tensor(classes)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(fmean(math.log(value) for value in values))


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """Print every goal next to the measured value."""
    print(
        "Ratios: loss after 300 steps over uniform's, on seeds that the gate has not seen (in brackets: mean log loss)."
    )
    print(f"{'what':66} {'measured':>34} {'goal':>17}")
    for what, measured, goal in table(records):
        print(f"{what:66} {measured:>34} {goal:>17}")


def table(records: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the rows: claim, measured value, goal."""
    rows: list[tuple[str, str, str]] = []
    nets = [record for record in records if record["part"] == "net"]
    for name, net in NETS.items():
        for optimizer in OPTIMIZERS:
            chosen = [record for record in nets if (record["net"], record["optimizer"]) == (name, optimizer)]
            goal = ""
            if net.goal is not None and (optimizer == "sgd" or "wine" not in name):
                goal = f"use, ≤ {net.goal}"
            if net.is_healthy:
                goal = "keep_uniform"
            if chosen:
                rows.append((f"{name}, {optimizer}", ", ".join(map(outcome, chosen)), goal))
    for record in (record for record in records if record["part"] == "deep"):
        learned = [name for name, (has_learned, _) in record["remedies"].items() if has_learned]
        measured = f"{record['verdict']}, {len(learned)} learn"
        rows.append((f"{record['net']}, {record['optimizer']}", measured, "none_learns, ≥ 1"))
    null = [record for record in records if record["part"] == "null"]
    accepted = sum(record["verdict"] == "use" for record in null)
    rows.append(("null arm accepted", f"{accepted} of {len(null)}", "≤ 2 of 64"))
    tried = [record for record in nets if record["verdict"] == "use"]
    for field, measure in (("unseen", "loss after 300 steps"), ("unseen_mean", "mean log loss over 300 steps")):
        ratios = [geometric_mean(record[field]) for record in tried]
        for what, hits, goal in (
            ("wins", sum(ratio < 1 for ratio in ratios), "≥ 80 %"),
            ("worse than 1.05 ×", sum(ratio > 1.05 for ratio in ratios), "≤ 15 %"),
            ("worse than 1.5 ×", sum(ratio > 1.5 for ratio in ratios), "none"),
        ):
            rows.append((f"use, unseen seeds, {measure}: {what}", share(hits, len(ratios)), goal))
    healthy = [record for record in nets if NETS[record["net"]].is_healthy]
    kept = sum(record["verdict"] == "keep_uniform" for record in healthy)
    rows.append(("healthy networks that keep uniform", share(kept, len(healthy)), "≥ 60 %"))
    return rows


def outcome(record: dict[str, Any]) -> str:
    if "unseen" not in record:
        return str(record["verdict"])
    return f"{record['verdict']} {geometric_mean(record['unseen']):.2f} ({geometric_mean(record['unseen_mean']):.2f})"


def share(hits: int, count: int) -> str:
    return f"{hits} of {count}" + (f" ({100 * hits / count:.0f} %)" if count else "")


if __name__ == "__main__":
    main()
