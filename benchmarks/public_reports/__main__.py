"""What a report says about networks of the kinds that public reports of failed training describe.

Run with `python -m benchmarks.public_reports [--trial off] [--cases NAME …]`. For each kind it prints the true cause,
the headline, the findings that count with their operations, and the remedies. Three facts are checked by program:

- named: a finding of an expected rule has the expected words in its message, its layers or its operation;
- first: that finding is the first of the report;
- repaired: what still counts once the cause is taken away. Empty is right; anything else is a false alarm, or another
  true statement, which is for the reader to decide.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Literal

import torch

from benchmarks.public_reports.cases import CASES, Case
from benchmarks.public_reports.networks import Training
from gradinspect import inspect
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import Finding, Report
from gradinspect.report.words.headline import headline
from gradinspect.report.words.remedy_words import remedy_in_words

Trial = Literal["auto", "off"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME")
    parser.add_argument("--trial", choices=["auto", "off"], default="auto")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch warns of some of the mistakes itself
    named = first = silent = 0
    started = time.perf_counter()
    for name in options.cases:
        case = CASES[name]
        report = inspected(case.sick, options.trial)
        counting = counted_findings(report)
        index = next((i for i, finding in enumerate(counting) if is_named(finding, case)), None)
        left = counted_findings(inspected(case.repaired, options.trial)) if case.repaired is not None else []
        named, first, silent = named + (index is not None), first + (index == 0), silent + (not left)
        print(f"\n## {name}\ntrue cause: {case.cause}")
        print(f"named: {yes(index is not None)}; first: {yes(index == 0)}; repaired: {shown(left) or 'silent'}")
        if isinstance(report, InspectionError):
            print(f"refused: {report.detail}")
            continue
        print(f"{report.verdict}: {headline(report)}")
        for finding in counting:
            remedy = remedy_in_words(finding.remedy) if finding.remedy is not None else None
            at = f" [{finding.operation.name}]" if finding.operation is not None else ""
            print(f"- {finding.severity} {finding.rule}{at}: {finding.message} → {remedy or '–'}")
    total = len(options.cases)
    print(f"\nnamed {named}/{total}, first {first}/{total}, repaired silent {silent}/{total}", end="")
    print(f"; {time.perf_counter() - started:.0f} s")


def inspected(build: Callable[[], Training], trial: Trial) -> Report | InspectionError:
    """Draw a network from seed 0 and inspect it; a refusal is an answer too."""
    torch.manual_seed(0)
    training = build()
    try:
        return inspect(training.model, training.inputs, training.targets, trial=trial, **training.options)
    except InspectionError as error:
        return error


def counted_findings(report: Report | InspectionError) -> list[Finding]:
    """Return the findings that count for the verdict."""
    if isinstance(report, InspectionError):
        return []
    return [finding for finding in report.findings if finding.severity != "info"]


def is_named(finding: Finding, case: Case) -> bool:
    """Check that a finding is of an expected rule and says one of the expected words."""
    operation = finding.operation
    where = [operation.name, operation.module or ""] if operation is not None else []
    text = " ".join([finding.message, *finding.layers, *where])
    return finding.rule in case.rules and any(word in text for word in case.words)


def shown(findings: list[Finding]) -> str:
    return ", ".join(f"{finding.severity} {finding.rule}" for finding in findings)


def yes(fact: bool) -> str:
    return "yes" if fact else "no"


if __name__ == "__main__":
    main()
