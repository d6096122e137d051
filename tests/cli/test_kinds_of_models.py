"""Models that `gradinspect inspect` takes: exported programs, functions that build models, and YAML."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gradinspect.cli import cli
from gradinspect.contracts.document import from_json
from gradinspect.contracts.report.report import Report
from tests.support.exported_files import exported_files

SPEC = """\
# Comments are kept out of JSON.
input: {shape: [6]}
layers:
  - {type: Linear, out_features: 5}
  - type: Tanh
  - type: Linear
    out_features: 3
    init:
      weight: {name: normal_, std: 1e-1}
"""
BUILD = """
import torch
from torch import nn

def alone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))

def with_inputs():
    return alone(), torch.ones(4, 6)

def with_targets():
    return alone(), torch.ones(4, 6), torch.zeros(4, dtype=torch.int64)

def spec():
    return {"input": {"shape": [6]}, "layers": [{"type": "Linear", "out_features": 3}]}

class Place:
    model = alone()
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("mlp_eval", "tagger", "structured"):
        tmp_path.joinpath(f"{name}.pt2").write_bytes(exported_files()[name])
    tmp_path.joinpath("spec.yaml").write_text(SPEC, encoding="utf-8")
    tmp_path.joinpath("building.py").write_text(BUILD, encoding="utf-8")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def report_of(*arguments: str) -> Report:
    result = run("inspect", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return from_json(Report, result.stdout)


@pytest.mark.parametrize("name", ["mlp_eval", "tagger", "structured"])
def test_an_exported_program_needs_no_other_option(name: str) -> None:
    report = report_of(f"{name}.pt2")
    assert (report.model.kind, report.model.name) == ("exported", f"{name}.pt2")
    assert report.layers
    assert report.environment.mode == ("eval" if name == "mlp_eval" else "train")


def test_an_exported_program_is_no_program_of_its_author() -> None:
    assert "runs here with your rights" not in run("inspect", "mlp_eval.pt2").stderr


def test_the_samples_of_a_dynamic_batch_can_be_chosen() -> None:
    assert report_of("tagger.pt2", "--samples", "7").layers[0].output_shape == (7, 5, 6)
    result = run("inspect", "mlp_eval.pt2", "--samples", "7")
    assert result.exit_code == 3
    assert "export it with dynamic_shapes" in result.stderr


def test_the_other_mode_and_a_declared_input_are_refused() -> None:
    assert "was exported in eval mode" in run("inspect", "mlp_eval.pt2", "--mode", "train").stderr
    assert "declares its inputs" in run("inspect", "mlp_eval.pt2", "--input-shape", "6").stderr


def test_a_spec_in_yaml_is_the_spec_in_json() -> None:
    layers = [
        {"type": "Linear", "out_features": 5}, {"type": "Tanh"},
        {"type": "Linear", "out_features": 3, "init": {"weight": {"name": "normal_", "std": 0.1}}},
    ]  # fmt: skip
    Path("spec.json").write_text(json.dumps({"input": {"shape": [6]}, "layers": layers}), encoding="utf-8")
    assert report_of("spec.yaml").layers == report_of("spec.json").layers
    assert run("validate", "spec.yaml").stdout == run("validate", "spec.json").stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x 1\nb: *x", "line 1, column 4: anchors and aliases"),
        ("input: {shape: [6]}\n  layers: 1", "line 2, column"),
        ("input: 1\ninput: 2", "line 2, column 1: the key 'input' is given twice"),
        ("input: !!python/object/apply:os.system [touch ran]", "line 1, column 8: the tag"),
        ("input: !!binary aGk=", "the tag tag:yaml.org,2002:binary is not read"),
        ("? [a, b]\n: 1", "a key is no text"),
        ("", "the file is empty"),
        ("a: " + "[" * 100 + "]" * 100, "nests too deeply"),
        ("input: {shape: [2026-01-01]}\nlayers: []", "/input/shape/0: line 1: "),
        ("input: {shape: [6]}\nlayers:\n  - {type: Linaer, out_features: 3}", "/layers/0/type: line 3: "),
    ],
)
def test_a_wrong_yaml_file_names_the_line(text: str, says: str) -> None:
    Path("wrong.yml").write_text(text, encoding="utf-8")
    result = run("validate", "wrong.yml")
    assert result.exit_code == 2
    assert says in result.stderr
    assert not Path("ran").exists()


def test_a_function_that_builds_a_model_is_called() -> None:
    Path("package").mkdir()
    Path("package/__init__.py").touch()
    Path("package/module.py").write_text(BUILD, encoding="utf-8")
    for name in ("package.module:with_inputs", "building.py:with_inputs"):
        report = report_of(name)
        assert [layer.kind for layer in report.layers] == ["Linear", "Linear"]
        assert report.layers[0].output_shape == (4, 5)
    assert "is imported and called here, with your rights" in run("inspect", "building.py:with_inputs").stderr
    assert report_of("building.py:with_targets").summary.loss == report_of("building.py:with_targets").summary.loss


def test_a_model_alone_takes_the_batch_of_the_options() -> None:
    assert report_of("building.py:alone", "--input-shape", "6").layers[0].output_shape == (128, 5)
    assert report_of("building.py:alone", "--input-shape", "6", "--samples", "3").layers[0].output_shape == (3, 5)
    assert report_of("building.py:Place.model", "--input-shape", "6", "--mode", "eval").environment.mode == "eval"
    assert report_of("building.py:spec").model.kind == "spec"
    result = run("inspect", "building.py:alone")
    assert result.exit_code == 2
    assert "return (model, inputs), or give --data batch.safetensors, or --input-shape" in result.stderr


def test_a_module_that_raises_is_named() -> None:
    Path("raising.py").write_text(textwrap.dedent("raise RuntimeError('no data')"), encoding="utf-8")
    result = run("inspect", "raising.py:build")
    assert result.exit_code == 2
    assert "importing raising.py raised RuntimeError: no data" in result.stderr
