"""Write docs/sick-networks.md from the reference set: `python -m gradinspect.testing.sick_networks > that file`.

A test inspects the same networks and compares every cell of the tables.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import torch

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.testing.known_tools import autotrainer, sagemaker
from gradinspect.testing.reference_networks import HEALTHY, SICK, Reference, Sick, inspect_reference

SCALED = 1e-6
_SICK_HEAD = ("network", "verdict", "our finding", "cause", "SageMaker Debugger", "AUTOTRAINER")
_HEALTHY_HEAD = ("network", "verdict", "verdict, loss × 1e-6", "SageMaker Debugger", "SageMaker Debugger, loss × 1e-6")

_INTRODUCTION = """# Sick networks and the findings about them

This page is generated from `gradinspect/testing/` by `python -m gradinspect.testing.sick_networks`, which draws and
inspects every network here, without a learning trial and judged by the rules alone (a policy with
`"verdicts": "inferred"`).

Each network has one defect, known by construction. Our column is the finding that names it, with the cause that it
gives. The last columns are the findings of other tools' rules for the same network at the same step, computed from the
same report with each tool's own definitions and defaults:

- **SageMaker Debugger**, built-in rules: VanishingGradient (mean |g| of any tensor under 1e-7), ExplodingTensor (NaN or
  infinity), PoorWeightInitialization (variances of ReLU inputs differ more than tenfold), DeadRelu (more than half
  of a layer's units inactive), WeightUpdateRatio (outside 1e-8 … 10).
- **AUTOTRAINER** (Zhang, Zhai, Ma and Shen, ICSE 2021): vanish (‖g‖ of the first kernel under 1e-3 of the last one's,
  and under 1e-4), explode (over 70 times the last one's, or NaN), dying ReLU (70 % of all gradient elements are 0).

AUTOTRAINER checks gradients only after training has missed its accuracy; its column lists what the checks would find.
A dash means no finding.
"""

_SCALE = """
## Healthy networks

Our verdict is a pass for all of them, whatever factor multiplies the loss. An absolute threshold on gradients gives
false alarms as soon as the loss is a millionth of its value, though a learning rate a million times larger then trains
the network identically. Where it fires on the original loss, it has found a bias before a normalisation or a branch
that starts at zero: parameters that have no gradient by design.

"""


def document(inspect: Callable[[Reference, float], Report]) -> str:
    """Render the page.

    Args:
        inspect: maps a network and a factor of its loss to its report.
    """
    lines = [_INTRODUCTION, *_table(_SICK_HEAD, [sick_row(name, inspect) for name in SICK])]
    lines += [_SCALE.strip("\n"), "", *_table(_HEALTHY_HEAD, [healthy_row(name, inspect) for name in HEALTHY])]
    lines += [_summary(inspect)]
    return "\n".join(lines) + "\n"


def sick_row(name: str, inspect: Callable[[Reference, float], Report]) -> tuple[str, ...]:
    """Return the cells of a sick network."""
    sick = SICK[name]
    report = inspect(sick, 1.0)
    finding = finding_of(report, sick)
    remedy = finding.remedy if finding is not None else None
    cause = str(remedy.arguments.get("cause", "")) if remedy is not None else ""
    ours = f"{finding.severity}: `{finding.rule}`" if finding is not None else "–"
    named = _words(cause) if sick.cause is not None else "–"
    return (sick.what, report.verdict, ours, named, _listed(sagemaker(report)), _listed(autotrainer(report)))


def healthy_row(name: str, inspect: Callable[[Reference, float], Report]) -> tuple[str, ...]:
    """Return the cells of a healthy network."""
    healthy = HEALTHY[name]
    report, scaled = inspect(healthy, 1.0), inspect(healthy, SCALED)
    tools = _listed(sagemaker(report)), _listed(sagemaker(scaled))
    return (healthy.what, report.verdict, scaled.verdict, *tools)


def finding_of(report: Report, sick: Sick) -> Finding | None:
    """Return the finding that names a network's defect."""
    return next((finding for finding in report.findings if finding.rule == sick.rule), None)


def _summary(inspect: Callable[[Reference, float], Report]) -> str:
    named = sum(finding_of(inspect(sick, 1.0), sick) is not None for sick in SICK.values())
    counts: Mapping[str, int] = {
        "SageMaker Debugger": sum(bool(sagemaker(inspect(sick, 1.0))) for sick in SICK.values()),
        "AUTOTRAINER": sum(bool(autotrainer(inspect(sick, 1.0))) for sick in SICK.values()),
    }
    others = "; ".join(f"{tool} reports something for {count}" for tool, count in counts.items())
    alarms = [
        sum(bool(sagemaker(inspect(healthy, factor))) for healthy in HEALTHY.values()) for factor in (1.0, SCALED)
    ]
    return (
        f"Of {len(SICK)} sick networks we name the defect in {named}; {others}.\n"
        f"Of {len(HEALTHY)} healthy ones SageMaker Debugger's rules fire on {alarms[0]}, and on {alarms[1]} with the "
        "loss multiplied by 1e-6."
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [_line(head), _line(("---",) * len(head)), *(_line(row) for row in rows), ""]


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "–"


def _words(cause: str) -> str:
    return cause.replace("_", " ")


def main() -> None:
    """Print the page."""
    torch.set_num_threads(1)
    reports: dict[tuple[int, float], Report] = {}

    def inspect(reference: Reference, factor: float) -> Report:
        key = (id(reference), factor)
        if key not in reports:
            reports[key] = inspect_reference(reference, loss_factor=factor)
        return reports[key]

    sys.stdout.write(document(inspect))


if __name__ == "__main__":
    main()
