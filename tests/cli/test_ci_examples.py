"""The CI examples, run as shell: the lines under `run:` and `script:` are executed here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples" / "ci"
ACTION = yaml.safe_load((EXAMPLES / "audit" / "action.yml").read_text(encoding="utf-8"))
JOB = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text(encoding="utf-8"))["gradinspect"]


def spec(activation: str, depth: int) -> str:
    hidden = {"repeat": depth, "layers": [{"type": "Linear", "out_features": 32}, {"type": activation}]}
    init = {"weight": {"name": "kaiming_normal_", "nonlinearity": "relu"}} if activation == "ReLU" else None
    document = {"input": {"shape": [16]}, "layers": [hidden, {"type": "Linear", "out_features": 10}]}
    return json.dumps(document | ({"init": init} if init else {}))


MODELS = {"healthy": (spec("ReLU", 3), 0), "sick": (spec("Sigmoid", 9), 1), "wrong": ("{}", 2)}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Make a checkout with a folder for models."""
    (tmp_path / "models").mkdir()
    return tmp_path


def shell(script: str, workspace: Path, variables: dict[str, str], *options: str, path: Path | None = None) -> int:
    """Run a script as CI does, with the programs in `path` first on PATH; by default the command is among them."""
    search = f"{path or Path(sys.executable).parent}:{os.environ['PATH'] if path is None else '/usr/bin:/bin'}"
    environment = {"PATH": search, "HOME": str(workspace), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", *options, "-c", script], cwd=workspace, env={**environment, **variables}, capture_output=True,
        check=False, timeout=120,
    )  # fmt: skip
    return done.returncode


CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PACKAGES = [
    "gradinspect[engine]",
    "gradinspect[engine] @ git+https://example.com/gradinspect.git@v0.1.0",
    "./wheels/gradinspect-0.1.0-py3-none-any.whl[engine]",
]


@pytest.fixture
def pip_calls(tmp_path: Path) -> Callable[[str, dict[str, str]], list[str]]:
    """Run an install script where the command is missing; return the arguments that it gives to python."""
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {calls}\n')
    python.chmod(0o755)

    def run(script: str, variables: dict[str, str]) -> list[str]:
        assert shell(script, tmp_path, variables, "-eo", "pipefail", path=programs) == 0
        return calls.read_text().splitlines()

    return run


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("index", [CPU_INDEX, ""])
@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_the_package_is_installed_with_the_build_of_torch_that_the_index_has(
    pip_calls: Callable[[str, dict[str, str]], list[str]], package: str, index: str, system: str
) -> None:
    script = ACTION["runs"]["steps"][0]["run"] if system == "github" else JOB["script"][0]
    expected = ["-m", "pip", "install", *(["--extra-index-url", index] if index else []), package]
    assert pip_calls(script, {"PACKAGE": package, "TORCH_INDEX": index}) == expected


def test_the_index_of_torch_is_pytorchs_cpu_index_unless_another_is_given() -> None:
    assert (ACTION["inputs"]["torch-index"]["default"], JOB["variables"]["TORCH_INDEX"]) == (CPU_INDEX, CPU_INDEX)


def run_action(workspace: Path, **given: str) -> int:
    """Run the action's shell steps in turn, with expressions replaced as the runner does."""
    inputs = {
        name: given.get(name.replace("-", "_"), entry.get("default", "")) for name, entry in ACTION["inputs"].items()
    }
    files = {"GITHUB_OUTPUT": str(workspace / "outputs"), "GITHUB_STEP_SUMMARY": str(workspace / "summary.md")}
    outputs: dict[str, str] = {}

    def expanded(text: str) -> str:
        def value(match: re.Match[str]) -> str:
            kind, _, name = match[1].strip().partition(".")
            return inputs[name] if kind == "inputs" else outputs[name.rpartition(".")[2]]

        return re.sub(r"\$\{\{(.*?)\}\}", value, text)

    code = 0
    for step in ACTION["runs"]["steps"]:
        if "run" not in step:
            continue
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], "an input inside a script would run as code"
        variables = {name: expanded(text) for name, text in step.get("env", {}).items()}
        code = shell(step["run"], workspace, {**files, **variables}, "--noprofile", "--norc", "-eo", "pipefail")
        if (workspace / "outputs").exists():
            outputs |= dict(line.split("=", 1) for line in (workspace / "outputs").read_text().splitlines())
        if code:
            break
    return code


@pytest.mark.parametrize("model", MODELS)
def test_the_github_action_ends_as_the_audit_does(workspace: Path, model: str) -> None:
    document, expected = MODELS[model]
    (workspace / "models" / "a net.json").write_text(document, encoding="utf-8")
    assert run_action(workspace, model="models/a net.json") == expected
    assert (workspace / "outputs").read_text() == f"exit-code={expected}\n"
    if expected < 2:
        written = {path.name for path in (workspace / "gradinspect-report").iterdir()}
        assert written == {"report.json", "report.html", "report.md", "junit.xml", "report.sarif"}
        assert (workspace / "summary.md").read_text(encoding="utf-8").strip()


def test_the_github_action_passes_policy_severity_and_more_arguments_on(workspace: Path) -> None:
    (workspace / "net.json").write_text(MODELS["sick"][0], encoding="utf-8")
    lenient = {
        "name": "lenient",
        "rules": {rule: {"enabled": False} for rule in ("vanishing_signal", "uneven_gradients", "does_not_learn")},
    }
    (workspace / "policy.json").write_text(json.dumps(lenient), encoding="utf-8")
    code = run_action(
        workspace, model="net.json", policy="policy.json", fail_on="fail", arguments="--seed 3 --samples 16"
    )
    report = json.loads((workspace / "gradinspect-report" / "report.json").read_text(encoding="utf-8"))
    assert code == 0
    assert report["environment"]["seed"] == 3
    assert report["layers"][0]["output_shape"][0] == 16


def test_an_input_of_the_github_action_never_runs_as_shell(workspace: Path) -> None:
    run_action(workspace, model="$(touch hacked); touch hacked #")
    assert not (workspace / "hacked").exists()


def test_steps_of_the_github_action_use_known_inputs_and_outputs_only() -> None:
    text = (EXAMPLES / "audit" / "action.yml").read_text(encoding="utf-8")
    expressions = re.findall(r"\$\{\{(.*?)\}\}", text)
    used = {name for expression in expressions for name in re.findall(r"inputs\.([\w-]+)", expression)}
    assert used == set(ACTION["inputs"])
    assert ACTION["runs"]["using"] == "composite"


@pytest.mark.parametrize("model", MODELS)
def test_the_gitlab_job_ends_as_the_audit_does(workspace: Path, model: str) -> None:
    document, expected = MODELS[model]
    (workspace / "models" / "net.json").write_text(document, encoding="utf-8")
    code = 0
    for line in JOB["script"]:
        code = code or shell(line, workspace, JOB["variables"])
    assert code == expected
    if expected < 2:
        junit = ElementTree.parse(workspace / JOB["artifacts"]["reports"]["junit"]).getroot()
        assert (junit.get("failures") != "0") == (expected == 1)


def test_the_gitlab_job_keeps_what_it_writes() -> None:
    assert JOB["artifacts"]["when"] == "always"
    assert all(path in " ".join(JOB["script"]) for path in JOB["artifacts"]["paths"])


def variables_of(entry: dict[str, Any]) -> set[str]:
    return set(re.findall(r"\$\{?(\w+)", " ".join(entry["script"])))


def test_the_gitlab_job_declares_every_variable_it_uses() -> None:
    assert variables_of(JOB) == set(JOB["variables"])
