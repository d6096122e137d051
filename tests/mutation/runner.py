"""Run the tests of each mutant in a process forked from one that has loaded torch already."""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import CodeType, ModuleType
from typing import Literal

from tests.mutation.coverage_map import CoverageMap
from tests.mutation.operators import Mutant, mutated

Outcome = Literal["killed", "survived", "timed out", "not covered"]
LOADED_ONCE = ("torch", "numpy", "pytest", "pydantic", "sqlalchemy", "psycopg", "alembic", "safetensors")
MARGIN_SECONDS = 120.0  # chosen: start of servers and collection, on a loaded machine
MOST_TESTS = 300
UNCHANGED = -1  # index of a change that changes nothing
BROKEN = 3  # pytest's exit code for an internal error


def run_all(sample: Sequence[Mutant], covered: CoverageMap, *, jobs: int, seconds: float) -> list[Outcome]:
    """Run the tests of every mutant.

    Args:
        sample: the mutants.
        covered: which tests to run for a line.
        jobs: processes at a time.
        seconds: how long the tests of one mutant may take by their usual durations.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: small models are faster on one thread
    for name in LOADED_ONCE:
        importlib.import_module(name)
    if sample and _outcome_unchanged(sample[0], covered, seconds) == "killed":
        raise RuntimeError("the tests fail without a change; run `make test` first")
    outcomes: dict[int, Outcome] = {}
    running: dict[int, tuple[int, float]] = {}
    waiting = list(enumerate(sample))
    while waiting or running:
        while waiting and len(running) < jobs:
            index, mutant = waiting.pop(0)
            tests = _affordable(covered, mutant, seconds)
            if not tests:
                outcomes[index] = "not covered"
                continue
            running[_forked(mutant, tests)] = (index, time.monotonic() + 4 * seconds + MARGIN_SECONDS)
        for pid, (index, deadline) in list(running.items()):
            outcome = _ended(pid, deadline)
            if outcome is not None:
                del running[pid]
                outcomes[index] = outcome
                sys.stdout.write(f"{len(outcomes)}/{len(sample)} {outcome}: {sample[index].key}\n")
                sys.stdout.flush()
        time.sleep(0.05)
    return [outcomes[index] for index in range(len(sample))]


def _outcome_unchanged(mutant: Mutant, covered: CoverageMap, seconds: float) -> Outcome:
    """Run the tests of a mutant without its change: they must pass, or no outcome means anything."""
    tests = _affordable(covered, mutant, seconds)
    pid = _forked(replace(mutant, index=UNCHANGED), tests) if tests else None
    outcome: Outcome | None = None if pid else "not covered"
    while pid and outcome is None:
        time.sleep(0.05)
        outcome = _ended(pid, time.monotonic() + MARGIN_SECONDS)
    assert outcome is not None
    return outcome


def _affordable(covered: CoverageMap, mutant: Mutant, seconds: float) -> list[str]:
    chosen: list[str] = []
    total = 0.0
    for test in covered.covering(mutant.path, mutant.line):
        total += covered.seconds.get(test, 1.0)
        if chosen and (total > seconds or len(chosen) == MOST_TESTS):
            break
        chosen.append(test)
    return chosen


def _forked(mutant: Mutant, tests: Sequence[str]) -> int:
    """Start a process that runs the tests with one module changed; return its id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    code = BROKEN
    try:
        import pytest

        sys.meta_path.insert(0, _Changed(mutant))
        options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout", "120"]
        loaded = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # torch and pytest's plugins are imported already
        code = int(pytest.main([*options, *loaded, *tests]))
    finally:
        os._exit(code)


def _ended(pid: int, deadline: float) -> Outcome | None:
    """Return how a process ended, or None while it runs; kill it when its time is over."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
        code = os.waitstatus_to_exitcode(status)
        if code >= BROKEN:
            raise RuntimeError(f"the tests of a mutant could not be run: pytest ended with {code}")
        return "survived" if code == 0 else "killed"  # a failed test, an import that fails, or a crash
    if time.monotonic() < deadline:
        return None
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "timed out"


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Import one module with its change; leave all others to the usual finders."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        parts = Path(mutant.path).with_suffix("").parts
        self.is_folder = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_folder else parts)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of the changed module."""
        del path, target
        if fullname != self.name:
            return None
        file = str(Path.cwd() / self.mutant.path)
        spec = importlib.util.spec_from_file_location(fullname, file, loader=self)
        assert spec is not None
        if self.is_folder:
            spec.submodule_search_locations = [str(Path(file).parent)]
        return spec

    def get_source(self, fullname: str) -> str:
        """Return the unchanged source."""
        del fullname
        return Path(self.mutant.path).read_text(encoding="utf-8")

    def get_code(self, fullname: str) -> CodeType:
        """Return the compiled change."""
        source = self.get_source(fullname)
        tree = ast.parse(source) if self.mutant.index == UNCHANGED else mutated(source, self.mutant)
        code: CodeType = compile(tree, self.mutant.path, "exec", dont_inherit=True)
        return code
