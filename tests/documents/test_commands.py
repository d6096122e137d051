"""README and quickstart: every `sh` and `python` block of them runs, in order, in one directory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTED_URL = "http://127.0.0.1:8080"
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_REPORTED = re.compile(r"^FAILED (\d+) (.*)$", re.MULTILINE)
# Report each command that fails, and go on: an audit exits with 1 when it finds something.
_TRAP = "trap 'echo FAILED $? $BASH_COMMAND' ERR\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a running service."""
    folder = tmp_path_factory.mktemp("service")
    process = subprocess.Popen(
        [sys.executable, "-m", "gradinspect", "serve", "--port", "0", "--data-dir", str(folder), "--workers", "1"],
        env=os.environ | {"GRADINSPECT_LOG_LEVEL": "error"}, stdout=subprocess.PIPE, text=True, cwd=folder,
    )  # fmt: skip
    assert process.stdout is not None
    urls = (match[1] for line in process.stdout if (match := re.search(r"is ready at (\S+)", line)))
    yield next(urls)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("document", ["README.md", "docs/quickstart.md"])
def test_the_commands_of_a_document_run_as_they_are_printed(document: str, service: str, tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    blocks = _BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))
    assert {language for language, _ in blocks} == {"sh", "python"}
    program = ""
    for language, text in blocks:
        if language == "python":
            program += text  # a later block uses the names of the earlier ones
            command = [sys.executable, "-c", program]
        else:
            command = ["bash", "-c", f"{_TRAP}{text.replace(DOCUMENTED_URL, service)}true"]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
            timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        failed = _REPORTED.findall(done.stdout)
        assert all(code == "1" and " audit " in line for code, line in failed), f"{failed}\n{done.stderr}"
        assert '"status":4' not in done.stdout.replace(" ", ""), done.stdout
    assert (tmp_path / "policy.json").exists()
