"""The tests that execute each line, and the duration of each test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from coverage import CoverageData

DURATIONS = "GRADINSPECT_TEST_DURATIONS"


@dataclass
class CoverageMap:
    """Tests by line, and seconds by test.

    Attributes:
        tests: for each file, for each line, the ids of the tests that execute it.
        seconds: for each test id, set-up, call and tear-down together.
    """

    tests: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def covering(self, path: str, line: int) -> list[str]:
        """Return the tests that execute a line; for a line that runs at import, those that execute the module at all.

        Tests in the folder that mirrors the module come first, then fast tests.
        """
        lines = self.tests.get(path, {})
        ids = lines.get(line, set()) or set().union(*lines.values())
        room = Path(path).parent.name
        return sorted(ids, key=lambda test: (f"/{room}/" not in test, self.seconds.get(test, 1.0), test))


def measure(sources: list[str], tests: list[str], directory: Path, jobs: int) -> CoverageMap:
    """Run the tests once with coverage contexts."""
    data, durations = directory / "coverage", directory / "durations.json"
    if not data.exists() or not durations.exists():
        command = [
            sys.executable, "-m", "pytest", "-q", "-n", str(jobs), "--dist", "loadfile", "-m", "not slow",
            "-p", "tests.mutation.coverage_map", "--cov-context=test", "--cov-report=",
            *(f"--cov={source}" for source in sources), *tests,
        ]  # fmt: skip
        environment = {**os.environ, "COVERAGE_FILE": str(data), DURATIONS: str(durations)}
        subprocess.run(command, env=environment, check=True)
    return read(data, durations)


def read(data: Path, durations: Path) -> CoverageMap:
    """Read what an earlier run wrote."""
    result = CoverageMap(seconds=json.loads(durations.read_text(encoding="utf-8")))
    coverage = CoverageData(str(data))
    coverage.read()
    for file in coverage.measured_files():
        path = str(Path(file).relative_to(Path.cwd()))
        result.tests[path] = {
            line: {context.split("|")[0] for context in contexts if context}
            for line, contexts in coverage.contexts_by_lineno(file).items()
        }
    return result


class _Durations:
    """A pytest plugin that writes the seconds of every test."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add one phase of one test."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        self.file.write_text(json.dumps(self.seconds), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Record durations in the process that starts the others."""
    if DURATIONS in os.environ and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Durations(os.environ[DURATIONS]))
