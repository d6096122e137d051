"""The files that commands read: specs, models, safetensors, policies, reports. Errors name the file."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from gradinspect.cli.failures import WRONG_CALL, Failure, failure_of
from gradinspect.cli.yaml_specs import parse_yaml
from gradinspect.contracts.document import from_json, from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import MODEL_ID
from gradinspect.contracts.sources import FILE_KINDS, SOURCES, AnySource, SpecSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.intake import check_safetensors
from gradinspect.intake.advice import SNIFFED_BYTES, advice
from gradinspect.intake.recognise import recognise
from gradinspect.intake.torchscript import other_format
from gradinspect.rules import check_policy

_NAMED = re.compile(r"(timm|torchvision|transformers):[\w./-]+")
_ZIP = b"PK\x03\x04"  # first bytes of a TorchScript file
_PRESETS = frozenset({"mlp", "cnn", "resnet", "rnn", "transformer"})
_TRANSFORMERS_FIELDS = frozenset({"architectures", "model_type", "transformers_version"})
_NOTEBOOK = "from gradinspect import inspect; inspect(model, inputs, targets)"
_SAVE = "torch.export.save(torch.export.export(model, inputs), 'model.pt2')"
EXPORT_IT = f"export the model first: {_SAVE}"
FROM_PYTHON = (
    "name the function that builds the model (gradinspect inspect package.module:build_model), inspect it from Python "
    f"({_NOTEBOOK}), or {EXPORT_IT}"
)
_STATE = "the file holds parameters, not a model: "
_MAKERS = {
    "timm": "timm.create_model('{name}')", "torchvision": "torchvision.models.get_model('{name}')",
    "transformers": "the model",
}  # fmt: skip
# Files of other formats, by their suffix: what they lack, and the command that goes on.
_HOW_TO_GO_ON = {
    ".safetensors": f"{_STATE}gradinspect inspect spec.json --weights FILE for a spec, or load them into the model and "
    f"{EXPORT_IT}",
    ".onnx": f"ONNX holds no gradients; {EXPORT_IT}",
    ".bin": f"{_STATE}load them into the model and {EXPORT_IT}",
    ".ckpt": f"{_STATE}load the checkpoint in Python and {EXPORT_IT}",
    ".pth": f"{_STATE}load them into the model and {EXPORT_IT}",
}  # fmt: skip
INPUT_NAMES, TARGET_NAMES = ("inputs", "input", "x"), ("targets", "target", "labels", "y")


@dataclass(frozen=True)
class ModelFile:
    """A model on disk: a spec, or the bytes of a file that holds a model."""

    name: str
    source: AnySource
    content: bytes | None = None


@dataclass(frozen=True)
class DataFile:
    """A batch on disk: a safetensors file, and which of its tensors are what."""

    content: bytes
    inputs: tuple[str, ...]
    target: str | None

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes in the form of an artifact's id."""
        return digest_of(self.content)


def digest_of(content: bytes) -> str:
    """Return the id that an artifact of these bytes has."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def read_bytes(path: str) -> bytes:
    """Read a file; `-` is stdin."""
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror or error}", exit_code=WRONG_CALL) from None


def read_model(path: str) -> ModelFile:
    """Read a spec (JSON or YAML), an exported program or a TorchScript file, whichever it is.

    Raises:
        Failure: it is neither; the hint says how to inspect what it is instead.
    """
    if path != "-" and not Path(path).exists():
        raise Failure(f"{path} cannot be read: No such file or directory", hint=_hint_for(path), exit_code=WRONG_CALL)
    content = read_bytes(path)
    name = "stdin" if path == "-" else Path(path).name
    if (kind := recognise(BytesIO(content))) in FILE_KINDS:
        if kind == "torchscript" and (other := _other_archive(content)) is not None:
            raise Failure(f"{path}: {other}", exit_code=WRONG_CALL)
        return ModelFile(name, SOURCES[kind].model_validate({kind: digest_of(content)}), content)
    if content.lstrip()[:1] == b"{":
        with _about(name):
            return ModelFile(name, SpecSource(spec=_spec(content)))
    if _is_yaml(path):
        with _about(name):
            return ModelFile(name, SpecSource(spec=_yaml_spec(content)))
    what = "neither a model spec (a JSON object) nor a file that torch.export.save or torch.jit.save wrote"
    hint = _HOW_TO_GO_ON.get(Path(path).suffix) or advice(content[:SNIFFED_BYTES]) or "its format is not known"
    raise Failure(f"{path} is {what}", hint=hint, exit_code=WRONG_CALL)


def read_spec(path: str) -> ModelSpec:
    """Read a spec."""
    content = read_bytes(path)
    if content.startswith(_ZIP):
        raise Failure(f"{path} is an archive, not a model spec (a JSON object)", exit_code=WRONG_CALL)
    with _about("stdin" if path == "-" else path):
        return _yaml_spec(content) if _is_yaml(path) else _spec(content)


def read_data(path: str, inputs: tuple[str, ...], target: str | None) -> DataFile:
    """Read a batch; without names, choose its tensors by the names that are usual for inputs and targets."""
    content, names = read_tensors(path)
    if not inputs:
        inputs = tuple(name for name in INPUT_NAMES if name in names)[:1] or (names if len(names) == 1 else ())
    if target is None:
        target = next((name for name in TARGET_NAMES if name in names and name not in inputs), None)
    unknown = [name for name in (*inputs, *([target] if target is not None else [])) if name not in names]
    if unknown or not inputs:
        wrong = f"has no tensor {unknown[0]!r}" if unknown else "has several tensors; name the inputs with --inputs"
        raise Failure(f"{path} {wrong}", details=(f"its tensors are {', '.join(sorted(names))}",), exit_code=WRONG_CALL)
    return DataFile(content, inputs, target)


def read_tensors(path: str) -> tuple[bytes, tuple[str, ...]]:
    """Read a safetensors file, and the names of its tensors."""
    content = read_bytes(path)
    try:
        return content, tuple(tensor.name for tensor in check_safetensors(BytesIO(content)).tensors)
    except ProblemError as error:
        raise Failure(f"{path}: {error.detail}", exit_code=WRONG_CALL) from None


def read_policy(path: str) -> Policy:
    """Read a policy."""
    with _about(path):
        return check_policy(from_json(Policy, read_bytes(path)))


def read_report(path: str) -> Report:
    """Read a report that `inspect --json` wrote."""
    with _about(f"{path} is not a report of `inspect --json`"):
        return from_json(Report, read_bytes(path), code="invalid_data")


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Name the file in front of what is wrong in it; the wrong fields follow."""
    try:
        yield
    except ProblemError as error:
        failure = failure_of(error, about=f"{name}: ")
        assert failure is not None, "a ProblemError is the caller's mistake"
        raise failure from None


def _spec(content: bytes) -> ModelSpec:
    try:
        return from_json(ModelSpec, content, code="invalid_spec")
    except ProblemError as error:
        if _is_transformers_config(content):
            detail = "this is a config.json of the transformers library, not a model spec"
            raise Failure(detail, hint=f"build the model from it; then {FROM_PYTHON}", exit_code=WRONG_CALL) from None
        raise error


def _is_transformers_config(content: bytes) -> bool:
    try:
        document = json.loads(content)
    except ValueError:
        return False
    return isinstance(document, dict) and bool(_TRANSFORMERS_FIELDS & document.keys())


def _hint_for(path: str) -> str:
    """Say what to do with the name of a model that is no file."""
    if MODEL_ID.fullmatch(path):
        return "it is the id of a registered model: give --server URL"
    if path in _PRESETS:
        return f'it is a preset: echo \'{{"preset": "{path}"}}\' | gradinspect inspect -'
    if _NAMED.fullmatch(path):
        library, _, name = path.partition(":")
        made = _MAKERS[library].format(name=name)
        return f"write a function that returns ({made}, inputs), and name it: gradinspect inspect file.py:function"
    if "/" not in path and "." not in path:
        return f"models are not found by name: {FROM_PYTHON}"
    return ""


def _is_yaml(path: str) -> bool:
    return Path(path).suffix.lower() in (".yaml", ".yml")


def _yaml_spec(content: bytes) -> ModelSpec:
    document = parse_yaml(content)
    try:
        return from_python(ModelSpec, document.value, code="invalid_spec")
    except ProblemError as error:
        raise document.with_lines(error) from None


def _other_archive(content: bytes) -> str | None:
    """Say what an archive is that torch.jit.save did not write; None for one that is broken, as loading explains it."""
    try:
        names = ZipFile(BytesIO(content)).namelist()
    except BadZipFile:
        return None
    return other_format(name.partition("/")[2] for name in names)
