"""The files that commands read: specs, TorchScript, safetensors, policies, reports. Mistakes name the file."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from gradinspect.cli.failures import WRONG_CALL, Failure, failure_of
from gradinspect.contracts.document import from_json
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.intake import check_safetensors
from gradinspect.intake.recognise import SNIFFED_BYTES, advice
from gradinspect.intake.torchscript import other_format
from gradinspect.rules import check_policy

_MODEL_ID = re.compile(r"mdl_[0-9a-f-]{36}")
_ZIP = b"PK\x03\x04"  # how a TorchScript file begins
INPUT_NAMES, TARGET_NAMES = ("inputs", "input", "x"), ("targets", "target", "labels", "y")


@dataclass(frozen=True)
class ModelFile:
    """A model on disk: a spec, or the bytes of a TorchScript file."""

    name: str
    spec: ModelSpec | None
    torchscript: bytes | None


@dataclass(frozen=True)
class DataFile:
    """A batch on disk: a safetensors file, and which of its tensors are what."""

    content: bytes
    inputs: tuple[str, ...]
    target: str | None

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes, as artifacts are named."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"


def read_bytes(path: str) -> bytes:
    """Read a file; `-` is stdin."""
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        hint = "it is the id of a registered model: give --server URL" if _MODEL_ID.fullmatch(path) else ""
        raise Failure(f"{path} cannot be read: {error.strerror or error}", hint=hint, exit_code=WRONG_CALL) from None


def read_model(path: str) -> ModelFile:
    """Read a spec or a TorchScript file, whichever it is."""
    content = read_bytes(path)
    name = "stdin" if path == "-" else Path(path).name
    if content.startswith(_ZIP):
        if (other := _other_archive(content)) is not None:
            raise Failure(f"{path}: {other}", exit_code=WRONG_CALL)
        return ModelFile(name, None, content)
    if content.lstrip()[:1] == b"{":
        with _about(name):
            return ModelFile(name, from_json(ModelSpec, content, code="invalid_spec"), None)
    why = advice(content[:SNIFFED_BYTES]) or "it holds nothing that is known here"
    message = f"{path} is neither a model spec (a JSON object) nor a file that torch.jit.save wrote"
    raise Failure(message, hint=why, exit_code=WRONG_CALL)


def read_spec(path: str) -> ModelSpec:
    """Read a spec."""
    content = read_bytes(path)
    if content.startswith(_ZIP):
        raise Failure(f"{path} is an archive, and no model spec (a JSON object)", exit_code=WRONG_CALL)
    with _about("stdin" if path == "-" else path):
        return from_json(ModelSpec, content, code="invalid_spec")


def read_data(path: str, inputs: tuple[str, ...], target: str | None) -> DataFile:
    """Read a batch, and find its tensors by the names that people give them where no names were given."""
    content, names = read_tensors(path)
    if not inputs:
        inputs = tuple(name for name in INPUT_NAMES if name in names)[:1] or (names if len(names) == 1 else ())
    if target is None:
        target = next((name for name in TARGET_NAMES if name in names and name not in inputs), None)
    unknown = [name for name in (*inputs, *([target] if target is not None else [])) if name not in names]
    if unknown or not inputs:
        wrong = f"has no tensor {unknown[0]!r}" if unknown else "has several tensors; say which with --inputs"
        raise Failure(f"{path} {wrong}", details=(f"its tensors are {', '.join(sorted(names))}",), exit_code=WRONG_CALL)
    return DataFile(content, inputs, target)


def read_policy(path: str) -> Policy:
    """Read a policy."""
    with _about(path):
        return check_policy(from_json(Policy, read_bytes(path)))


def read_report(path: str) -> Report:
    """Read a report that `--json` wrote."""
    with _about(f"{path} is no report of `inspect --json`"):
        return from_json(Report, read_bytes(path), code="invalid_data")


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Begin what is said of a mistake with the file that holds it; its fields follow, each with its place."""
    try:
        yield
    except ProblemError as error:
        failure = failure_of(error, about=f"{what}: ")
        assert failure is not None, "a problem is the caller's"
        raise failure from None


def _other_archive(content: bytes) -> str | None:
    """What kind of archive this is, where it is none that torch.jit.save wrote; a broken one is told by its loading."""
    try:
        names = ZipFile(BytesIO(content)).namelist()
    except BadZipFile:
        return None
    return other_format(name.partition("/")[2] for name in names)


def read_tensors(path: str) -> tuple[bytes, tuple[str, ...]]:
    """Read a safetensors file, and the names of its tensors."""
    content = read_bytes(path)
    try:
        return content, tuple(tensor.name for tensor in check_safetensors(BytesIO(content)).tensors)
    except ProblemError as error:
        raise Failure(f"{path}: {error.detail}", exit_code=WRONG_CALL) from None
