"""Draw a sample of mutants, run the tests of each, and print which survive.

    python -m tests.mutation --count 240 --seed 1

A mutant is killed when a test fails, and survives when all tests that execute its line pass within its budget. Those
that no test can tell from the original are named in `equivalent.toml` with the reason, and are not counted.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import tomllib
from collections import Counter
from hashlib import sha256
from pathlib import Path

from tests.mutation.coverage_map import CoverageMap, measure
from tests.mutation.operators import Mutant, mutants
from tests.mutation.runner import Outcome, run_all

SOURCES = ("gradinspect/engine", "gradinspect/probes", "gradinspect/rules", "service/db")
TESTS = (
    "tests/engine", "tests/probes", "tests/inspection", "tests/rules", "tests/contracts", "tests/service/db",
    "tests/service/test_retention.py", "tests/service/test_maintenance.py", "tests/test_stored_reports.py",
)  # fmt: skip
GOAL = 0.92
EQUIVALENT = Path(__file__).with_name("equivalent.toml")


def main() -> int:
    """Run the sample; return 1 when fewer mutants are killed than the goal."""
    options = _options()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(options.map or temporary)
        directory.mkdir(parents=True, exist_ok=True)
        covered = measure(list(SOURCES), list(TESTS), directory, options.jobs)
        sample = draw(options.count, options.seed)
        if options.only:
            sample = [mutant for mutant in sample if options.only in mutant.key]
        outcomes = run_all(sample, covered, jobs=options.jobs, seconds=options.seconds)
    return _report(sample, outcomes, covered)


def draw(count: int, seed: int) -> list[Mutant]:
    """Return `count` mutants, drawn with a seed; an edit elsewhere does not change which of the others are drawn."""
    everything = [
        mutant
        for source in SOURCES
        for file in sorted(Path(source).rglob("*.py"))
        for mutant in mutants(str(file), file.read_text(encoding="utf-8"))
    ]
    return sorted(everything, key=lambda mutant: sha256(f"{seed} {mutant.key}".encode()).digest())[:count]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=240, help="mutants to draw (default: 240)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (default: 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=60.0, help="budget of tests per mutant (default: 60)")
    parser.add_argument("--map", help="folder that keeps the coverage between runs")
    parser.add_argument("--only", help="run only mutants whose text holds this")
    return parser.parse_args()


def _report(sample: list[Mutant], outcomes: list[Outcome], covered: CoverageMap) -> int:
    equivalent = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["equivalent"]
    reasons = {entry["mutant"]: entry["reason"] for entry in equivalent}
    counts: Counter[str] = Counter()
    for mutant, outcome in zip(sample, outcomes, strict=True):
        named = "equivalent" if outcome == "survived" and mutant.key in reasons else outcome
        counts[named] += 1
        if named in ("survived", "not covered"):
            tests = len(covered.covering(mutant.path, mutant.line))
            sys.stdout.write(
                f"{named}: {mutant.path}:{mutant.line} {mutant.change} ({tests} tests)\n    {mutant.key}\n"
            )
    killed = counts["killed"] + counts["timed out"]
    counted = len(sample) - counts["equivalent"]
    share = killed / counted if counted else 1.0
    sys.stdout.write(f"{dict(counts)}: {killed} of {counted} killed, {share:.1%} (goal {GOAL:.0%})\n")
    return int(share < GOAL)


if __name__ == "__main__":
    sys.exit(main())
