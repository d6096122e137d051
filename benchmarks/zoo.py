"""Published architectures, each inspected and compared with plain autograd.

Run with `python -m benchmarks.zoo [--family timm] [--only resnet18 gpt2] [--output FILE]`; it needs `gradinspect[zoo]`.
Each network runs in a separate process, eager and, where torch can, as a traced TorchScript module. `wrong` counts
the gradients whose norm differs from plain autograd's by more than a thousandth, `rows` the layer calls, and `unseen`
the parameters that have a gradient and no row.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.architectures.architecture import Architecture, Builder
from benchmarks.architectures.classics import CLASSICS
from benchmarks.architectures.language import TRANSFORMERS
from benchmarks.architectures.vision import TIMM, TORCHVISION
from gradinspect import inspect
from gradinspect.contracts.report.report import Report
from gradinspect.engine.network.reproducible import left_as_found, seeded

SEED = 0
RELATIVE = 1e-3  # chosen: rounding of float32 in a different order of summation stays below
NEARLY_ZERO = 1e-5  # of the largest gradient's norm: what cancels is rounding alone
SECONDS = 900  # chosen: of one network in all its forms, on a machine that is shared
COLUMNS = ("family", "network", "form", "verdict", "rows", "unseen", "wrong", "checks", "seconds", "MB", "findings")
FAMILIES: dict[str, Mapping[str, Builder]] = {
    "torchvision": TORCHVISION, "timm": TIMM, "transformers": TRANSFORMERS, "classics": CLASSICS,
}  # fmt: skip
BUILDERS = {name: (family, build) for family, nets in FAMILIES.items() for name, build in nets.items()}

# Any: rows of the table, as JSON carries them from process to process
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=list(FAMILIES), help="of the networks; all by default")
    parser.add_argument("--only", nargs="+", choices=list(BUILDERS), metavar="NETWORK", help="these networks alone")
    parser.add_argument("--output", type=Path, help="where the table is written as Markdown")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(options.one)
        return
    names = options.only or [name for name, (family, _) in BUILDERS.items() if options.family in (None, family)]
    rows = []
    for name in names:
        for row in in_own_process(name):
            rows.append(row)
            print(line(row), flush=True)
    print(summary(rows))
    if options.output:
        options.output.write_text(document(rows), encoding="utf-8")


def in_own_process(name: str) -> list[Row]:
    """Measure one network; what ends its process becomes its row."""
    command = [sys.executable, "-m", "benchmarks.zoo", "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        printed = error.stdout or b""
        rows = rows_in(printed.decode() if isinstance(printed, bytes) else printed)
        return [*rows, failed(name, "eager" if not rows else "traced", f"stopped after {SECONDS} seconds")]
    rows = rows_in(done.stdout)
    if rows and done.returncode == 0:
        return rows
    return [*rows, failed(name, "eager" if not rows else "traced", (done.stderr.splitlines() or ["no output"])[-1])]


def rows_in(printed: str) -> list[Row]:
    return [json.loads(text) for text in printed.splitlines() if text.startswith("{")]


def failed(name: str, form: str, message: str) -> Row:
    return {"family": BUILDERS[name][0], "network": name, "form": form, "verdict": "error", "findings": message[:200]}


def run_one(name: str) -> None:
    """Print a row for each form of one network, as JSON."""
    warnings.simplefilter("ignore")
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    architecture = BUILDERS[name][1]()
    without_dropout(architecture.model)
    print(json.dumps(measured(name, "eager", architecture)), flush=True)
    try:
        traced = torch.jit.trace(
            copy.deepcopy(architecture.model), architecture.inputs, check_trace=False, strict=False
        )
    except Exception:  # noqa: BLE001  # torch cannot trace every network
        return
    if torch.is_tensor(traced(*architecture.inputs)):
        form = Architecture(traced, architecture.inputs, architecture.target, architecture.loss)
        print(json.dumps(measured(name, "traced", form)), flush=True)


def without_dropout(model: nn.Module) -> None:
    """Switch dropout off: after its first run TorchScript draws other masks from the same seed than eager torch."""
    for module in model.modules():
        if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":
            vars(module)["p"] = 0.0  # of torch and of torchvision
        for attribute, value in vars(module).items():
            if any(word in attribute for word in ("drop", "mask_time_prob")) and isinstance(value, float):
                setattr(module, attribute, 0.0)


def measured(name: str, form: str, architecture: Architecture) -> Row:
    expected = autograd_norms(architecture)
    started = time.process_time()
    try:
        report = inspect(
            architecture.model,
            architecture.inputs,
            architecture.target,
            loss=architecture.loss,
            seed=SEED,
            trial="off",
        )
    except Exception as error:  # noqa: BLE001  # any error is a result
        return failed(name, form, f"{type(error).__name__}: {error}")
    seconds = time.process_time() - started
    return {
        "family": BUILDERS[name][0], "network": name, "form": form, "verdict": report.verdict,
        "rows": len(report.layers), "unseen": unseen(report), "wrong": wrong(report, expected),
        "checks": " ".join(check.name for check in report.self_checks if check.status == "failed"),
        "seconds": round(seconds, 1), "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "findings": "; ".join(
            f"{finding.severity} {finding.rule}: {finding.message}" for finding in report.findings
            if finding.severity in ("warn", "fail")
        ),
    }  # fmt: skip


def autograd_norms(architecture: Architecture) -> dict[str, float]:
    """Return the norm of each parameter's gradient in plain torch."""
    model = architecture.model
    with left_as_found(model, "train"), seeded(SEED, torch.device("cpu")):
        output = model(*architecture.inputs)
        loss_of: Callable[[Any, Any], torch.Tensor] = (
            LOSSES[architecture.loss] if isinstance(architecture.loss, str) else architecture.loss
        )
        named = [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
        gradients = torch.autograd.grad(
            loss_of(output, architecture.target), [tensor for _, tensor in named], allow_unused=True
        )
    pairs = zip(named, gradients, strict=True)
    return {name: float(gradient.norm()) for (name, _), gradient in pairs if gradient is not None}


LOSSES: dict[str, Callable[[Any, Any], torch.Tensor]] = {
    "cross_entropy": functional.cross_entropy,
    "mse": functional.mse_loss,
    "bce_with_logits": functional.binary_cross_entropy_with_logits,
}


def wrong(report: Report, expected: dict[str, float]) -> int:
    """Count the gradients that differ from plain autograd's."""
    floor = NEARLY_ZERO * max(expected.values(), default=0.0)
    own = {name: row.grad_norm for row in report.parameters for name in (row.name, *row.aliases)}
    return sum(abs((own.get(name) or 0.0) - norm) > RELATIVE * norm + floor for name, norm in expected.items())


def unseen(report: Report) -> int:
    """Count the parameters that have a gradient and no layer call."""
    used = {name for row in report.layers for name in row.parameters}
    return sum(row.status == "trained" and row.name not in used for row in report.parameters)


def line(row: Row) -> str:
    return f"{row['network']:40} {row['form']:7} " + " ".join(str(row.get(column, "")) for column in COLUMNS[3:])


def summary(rows: list[Row]) -> str:
    """Count verdicts, errors and wrong numbers."""
    verdicts = [row["verdict"] for row in rows]
    counts = ", ".join(f"{verdict} {verdicts.count(verdict)}" for verdict in sorted(set(verdicts)))
    networks = len({row["network"] for row in rows})
    return (
        f"{networks} networks, {len(rows)} inspections: {counts}; wrong gradients {total(rows, 'wrong')}, parameters "
        f"without a row {total(rows, 'unseen')}, failed checks {sum(bool(row.get('checks')) for row in rows)}"
    )


def total(rows: list[Row], column: str) -> int:
    return sum(row.get(column) or 0 for row in rows)


def document(rows: list[Row]) -> str:
    """Return the table as Markdown."""
    cells = [[str(row.get(column, "")).replace("|", "\\|").replace("\n", " ") for column in COLUMNS] for row in rows]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [list(COLUMNS), ["---"] * len(COLUMNS), *cells])
    return f"# Published architectures\n\n{' '.join((__doc__ or '').split())}\n\n{summary(rows)}.\n\n{table}\n"


if __name__ == "__main__":
    main()
