"""`gradinspect inspect` on this machine: inputs, outputs and exit codes."""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import nn

from gradinspect.cli import cli
from gradinspect.contracts.document import from_json
from gradinspect.contracts.report.report import Report
from gradinspect.report.words.headline import headline

SPEC: dict[str, Any] = {
    "input": {"shape": [6]},
    "layers": [{"type": "Linear", "out_features": 5}, {"type": "Tanh"}, {"type": "Linear", "out_features": 3}],
}
SICK: dict[str, Any] = {
    "input": {"shape": [32]},
    "layers": [
        {"repeat": 20, "layers": [{"type": "Linear", "out_features": 32}, {"type": "Sigmoid"}]},
        {"type": "Linear", "out_features": 10},
    ],
}
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory with spec.json, sick.json, model.pt, its weights and a batch."""
    here = tmp_path_factory.mktemp("files")
    (here / "spec.json").write_text(json.dumps(SPEC), encoding="utf-8")
    (here / "sick.json").write_text(json.dumps(SICK), encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        batch = {"x": torch.randn(8, 6), "y": torch.randint(0, 3, (8,))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated upstream, and supported here
        torch.jit.save(torch.jit.script(model), here / "model.pt")
    save_file(batch, here / "batch.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, here / "weights.safetensors")
    return here


@pytest.fixture
def run(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in a copy of that directory."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def invoke(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(cli, list(arguments), input=stdin, catch_exceptions=False)

    return invoke


def reported(result: Result) -> Report:
    assert result.exit_code == 0, result.stderr
    return from_json(Report, result.stdout)


def test_a_spec_gives_a_readable_report_and_exit_0_whatever_the_verdict(run: Run) -> None:
    result = run("inspect", "sick.json")
    assert result.exit_code == 0
    assert "✖ FAIL  sick.json" in result.stdout
    assert re.search(r"0 +0 +Linear → sigmoid", result.stdout)
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


def test_json_is_the_whole_report_and_nothing_else(run: Run) -> None:
    report = reported(run("inspect", "sick.json", "--json"))
    assert report.verdict == "fail"
    assert report.model.name == "sick.json"
    assert len(report.layers) == 21


def test_the_same_seed_gives_the_same_numbers(run: Run) -> None:
    first, second, other = (reported(run("inspect", "spec.json", "--json", "--seed", seed)) for seed in ("3", "3", "4"))
    assert first.layers == second.layers
    assert first.layers != other.layers


def test_a_spec_comes_from_stdin(run: Run) -> None:
    report = reported(run("inspect", "-", "--json", stdin=json.dumps(SPEC)))
    assert report.summary.parameters == 6 * 5 + 5 + 5 * 3 + 3


def test_html_and_markdown_are_written_and_the_report_is_printed_too(run: Run) -> None:
    result = run("inspect", "sick.json", "--html", "out.html", "--markdown", "out.md")
    assert "✖ FAIL" in result.stdout
    assert Path("out.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert Path("out.md").read_text(encoding="utf-8").startswith("## ❌ fail: sick.json")


def test_an_output_that_cannot_be_written_is_named(run: Run) -> None:
    result = run("inspect", "spec.json", "--html", "nowhere/out.html")
    assert result.exit_code == 2
    assert "nowhere/out.html cannot be written" in result.stderr


def test_a_torchscript_file_runs_on_a_batch_whose_tensors_are_found_by_name(run: Run) -> None:
    result = run("inspect", "model.pt", "--data", "batch.safetensors", "--json")
    report = reported(result)
    assert [row.kind for row in report.layers] == ["Linear", "Linear"]
    assert report.model.kind == "torchscript"
    assert not report.environment.synthetic_data
    assert "is a program and runs here with your rights" in result.stderr


def test_the_file_and_the_spec_with_its_weights_give_the_same_numbers(run: Run) -> None:
    file = reported(run("inspect", "model.pt", "--data", "batch.safetensors", "--json"))
    spec = reported(
        run("inspect", "spec.json", "--weights", "weights.safetensors", "--data", "batch.safetensors",
            "--inputs", "x", "--target", "y", "--json")
    )  # fmt: skip
    # float32, sums over at most 48 terms
    assert [row.grad_norm for row in spec.parameters] == pytest.approx(
        [row.grad_norm for row in file.parameters], rel=48 * 2**-24
    )
    assert spec.environment.data_digest == file.environment.data_digest


def test_a_torchscript_file_runs_on_drawn_data_of_a_declared_shape(run: Run) -> None:
    report = reported(run("inspect", "model.pt", "--input-shape", "6", "--samples", "16", "--json"))
    assert report.environment.synthetic_data
    assert report.layers[0].output_shape == (16, 5)


def test_options_become_the_request(run: Run) -> None:
    report = reported(
        run("inspect", "spec.json", "--optimizer", "sgd,lr=0.5,momentum=0.9", "--samples", "32", "--loss", "mse",
            "--precision", "compute=float64,intended=float16", "--seeds", "2", "--mode", "eval", "--json")
    )  # fmt: skip
    assert report.optimizer is not None
    assert (report.optimizer.type, report.optimizer.lr) == ("sgd", 0.5)
    assert report.environment.dtype == "float64"
    assert report.precision is not None
    assert report.precision.intended == "float16"
    assert report.layers[0].output_shape == (32, 5)


def test_an_optimizer_may_be_json(run: Run) -> None:
    report = reported(run("inspect", "spec.json", "--optimizer", '{"type": "adam", "betas": [0.8, 0.9]}', "--json"))
    assert report.optimizer is not None
    assert report.optimizer.type == "adam"


def test_a_policy_file_judges(run: Run) -> None:
    policy = {
        "name": "blind",
        "rules": {"vanishing_signal": {"enabled": False}, "uneven_gradients": {"enabled": False}},
    }
    Path("policy.json").write_text(json.dumps(policy), encoding="utf-8")
    report = reported(run("inspect", "sick.json", "--policy", "policy.json", "--json"))
    assert "vanishing_signal" not in {finding.rule for finding in report.findings}
    assert report.policy is not None
    assert report.policy.name == "blind"


WRONG: list[tuple[list[str], str]] = [
    (["inspect", "nowhere.json"], "nowhere.json cannot be read"),
    (["inspect", "mdl_00000000-0000-0000-0000-000000000000"], "give --server URL"),
    (["inspect", "state.pt"], "state.pt: the file was written by torch.save"),
    (["validate", "model.pt"], "model.pt is an archive, not a model spec"),
    (["validate", "broken.json"], "broken.json: Expecting property name"),
    (["inspect", "text.txt"], "neither a model spec"),
    (["inspect", "pickle.pt"], "the file is a pickle (an old torch.save)"),
    (["inspect", "spec.json", "--weights", "text.txt"], "text.txt: the header says"),
    (["inspect", "wrong.json"], "wrong.json: one field is wrong\n  /layers/0/out_features"),
    (["inspect", "broken.json"], "line 1, column"),
    (["inspect", "spec.json", "--optimizer", "sgd,lr=-1"], "--optimizer lr: "),
    (["inspect", "spec.json", "--optimizer", "sdg"], "--optimizer type: "),
    (["inspect", "spec.json", "--optimizer", "{"], "is not JSON"),
    (["inspect", "spec.json", "--diagnostics", "gradients,colour"], "--diagnostics: there is no diagnostic 'colour'; "),
    (["inspect", "spec.json", "--diagnostics", "nosie"], "there is no diagnostic 'nosie'; did you mean 'noise'?"),
    (["inspect", "spec.json", "--server", "127.0.0.1:8080"], "--server: '127.0.0.1:8080' is not a service's address"),
    (["inspect", "spec.json", "--seed", "one"], "--seed: 'one' is not a valid integer"),
    (["inspect", "spec.json", "--lr-scale"], "no such option '--lr-scale'"),
    (["inspect"], "missing argument 'MODEL'\n  see gradinspect inspect --help"),
    (["inspct", "spec.json"], "there is no command 'inspct'; did you mean 'inspect'?"),
    (["inspect", "train:build_tanh"], "train:build_tanh: No module named 'train'"),
    (["inspect", "train.py:build_tanh"], "there is no file train.py"),
    (["inspect", "json:nothing"], "json has no function 'nothing'"),
    (["inspect", "json:dumps"], "json:dumps raised TypeError"),
    (["inspect", "os:getcwd"], "os:getcwd returned str; it has to return an nn.Module"),
    (["inspect", "torch.nn:Identity"], "the function returns a model alone"),
    (["inspect", "json:dumps", "--server", "http://127.0.0.1:1"], "is code of yours, which runs on your machine alone"),
    (["inspect", "timm:resnet50"], "returns (timm.create_model('resnet50'), inputs)"),
    (["inspect", "net.onnx"], "ONNX holds no gradients; export the model first"),
    (["inspect", "weights.safetensors"], "gradinspect inspect spec.json --weights FILE"),
    (["inspect", "resnet50"], "models are not found by name: name the function that builds the model"),
    (["inspect", "resnet"], 'it is a preset: echo \'{"preset": "resnet"}\' | gradinspect inspect -'),
    (["inspect", "config.json"], "a config.json of the transformers library"),
    (["validate", "config.json"], "build the model from it; then name the function that builds the model"),
    (["inspect", "spec.json", "--loss", "hinge"], "--loss"),
    (["inspect", "spec.json", "--input-shape", "6"], "a spec declares its input itself"),
    (["inspect", "model.pt"], "--data batch.safetensors, or --input-shape"),
    (["inspect", "model.pt", "--input-shape", "six"], "is not a list of sizes"),
    (["inspect", "model.pt", "--input-shape", "3,-8,8"], "has a size under 1"),
    (["inspect", "model.pt", "--weights", "weights.safetensors", "--input-shape", "6"], "holds its own weights"),
    (["inspect", "model.pt", "--data", "text.txt"], "text.txt: the header says"),
    (["inspect", "model.pt", "--data", "batch.safetensors", "--inputs", "z"], "its tensors are x, y"),
    (["inspect", "spec.json", "--policy", "text.txt"], "line 1, column"),
    (["inspect", "spec.json", "--label", "team=vision"], "--label goes with --server"),
]


@pytest.mark.parametrize(
    ("arguments", "says"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else None
)
def test_wrong_arguments_exit_with_2_and_are_named(run: Run, arguments: list[str], says: str) -> None:
    Path("text.txt").write_text("neither one nor the other", encoding="utf-8")
    Path("pickle.pt").write_bytes(b"\x80\x02}.")
    torch.save({"weight": torch.zeros(1)}, "state.pt")
    Path("broken.json").write_text("{", encoding="utf-8")
    wrong = {**SPEC, "layers": [{"type": "Linear", "out_features": 0}]}
    Path("wrong.json").write_text(json.dumps(wrong), encoding="utf-8")
    Path("net.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    Path("config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "n_embd": 768}', encoding="utf-8")
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("gradinspect: ")
    assert says in result.stderr
    assert result.stdout == ""


def test_a_model_that_cannot_be_measured_exits_with_3(run: Run) -> None:
    save_file({"x": torch.zeros(4, 7), "y": torch.zeros(4, dtype=torch.int64)}, "other.safetensors")
    result = run("inspect", "model.pt", "--data", "other.safetensors")
    assert result.exit_code == 3
    assert "data_mismatch" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_broken_archive_exits_with_3(run: Run) -> None:
    Path("zip.pt").write_bytes(b"PK\x03\x04 and nothing more")
    result = run("inspect", "zip.pt", "--input-shape", "6")
    assert result.exit_code == 3
    assert "invalid_model" in result.stderr


def test_the_number_of_threads_of_torch_is_restored(run: Run) -> None:
    threads = torch.get_num_threads()
    reported(run("inspect", "spec.json", "--json"))
    assert torch.get_num_threads() == threads


def test_reports_are_compared_and_a_worse_one_can_fail(run: Run) -> None:
    Path("base.json").write_text(run("inspect", "spec.json", "--json").stdout, encoding="utf-8")
    Path("head.json").write_text(run("inspect", "sick.json", "--json").stdout, encoding="utf-8")
    result = run("compare", "base.json", "head.json")
    assert result.exit_code == 0
    assert "✖ worse" in result.stdout
    assert "vanishing_signal" in result.stdout
    assert run("compare", "base.json", "head.json", "--fail-if-worse").exit_code == 1
    assert run("compare", "base.json", "base.json", "--fail-if-worse").exit_code == 0
    document = json.loads(run("compare", "head.json", "base.json", "--json").stdout)
    assert document["change"] == "better"


def test_comparing_a_file_that_is_not_a_report_names_what_is_wrong(run: Run) -> None:
    Path("base.json").write_text(run("inspect", "spec.json", "--json").stdout, encoding="utf-8")
    result = run("compare", "base.json", "spec.json")
    assert result.exit_code == 2
    assert "spec.json is not a report of `inspect --json`: " in result.stderr
    assert "/layers" in result.stderr
    unknown = run("compare", "base.json", "insp_00000000-0000-0000-0000-000000000000")
    assert (unknown.exit_code, "give --server URL" in unknown.stderr) == (2, True)


def test_validate_lists_the_layers(run: Run) -> None:
    result = run("validate", "spec.json")
    assert result.exit_code == 0
    assert [line.split()[1] for line in result.stdout.splitlines()[1:4]] == ["Linear", "Tanh", "Linear"]
    assert "53 parameters" in result.stdout
    assert json.loads(run("validate", "spec.json", "--json").stdout)["parameters"] == 53


def test_the_digest_of_a_batch_is_that_of_its_bytes(run: Run) -> None:
    from gradinspect.cli.files import read_data

    content = Path("batch.safetensors").read_bytes()
    data = read_data("batch.safetensors", (), None)
    assert (data.inputs, data.target) == (("x",), "y")
    assert data.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_the_sentence_of_the_report_is_the_headline(run: Run) -> None:
    report = reported(run("inspect", "sick.json", "--json"))
    shown = " ".join(run("inspect", "sick.json").stdout.split())
    assert " ".join(headline(report).split()) in shown
