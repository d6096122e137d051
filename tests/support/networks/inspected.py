"""Shared code of the engine's tests: models with given weights, and their reports in every form of a model."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from gradinspect import inspect
from gradinspect.contracts.document import Document, from_python
from gradinspect.contracts.report.report import Measurements, Report
from gradinspect.contracts.report.rows import LayerMeasurement, ParameterMeasurement
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.sources import SpecSource, TorchScriptSource
from gradinspect.contracts.wire.messages import Job, Limits
from gradinspect.inspection.job import run_job

torch.set_num_threads(1)  # more threads would only slow down models of this size
FLOAT64 = 2.0**-52
NO_DIGEST = "sha256:" + "0" * 64  # the bytes are arguments
# A sum of n ≤ 4,096 products in float64 has a relative error of at most n·2⁻⁵³; four times that for two such factors
# and their quotient.
ROUNDING = 4 * 4096 * FLOAT64


def linear_chain(*weights: torch.Tensor, activation: type[nn.Module] | None = None) -> nn.Sequential:
    """Build bias-free linear layers with the given weights, each but the last followed by the activation."""
    layers: list[nn.Module] = []
    for weight in weights:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        layer.weight = nn.Parameter(weight.clone())
        layers.append(layer)
        if activation is not None and len(layers) < 2 * len(weights) - 1:
            layers.append(activation())
    return nn.Sequential(*layers)


def squared_error(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
    """Compute half the mean over samples of the squared error."""
    assert target is not None
    return (output - target).square().sum() / (2 * output.shape[0])


def output_sum(output: torch.Tensor, _target: torch.Tensor | None) -> torch.Tensor:
    """Sum the output, so that δ at the output is 1."""
    return output.sum()


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Draw N(0, 1) values that depend only on shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def layer(report: Report | Measurements, name: str, call: int = 0) -> LayerMeasurement:
    """Return the row of one layer call."""
    found = [row for row in report.layers if (row.name, row.call) == (name, call)]
    assert found, f"no layer {name!r}: {[(row.name, row.call) for row in report.layers]}"
    return found[0]


def parameter(report: Report | Measurements, name: str) -> ParameterMeasurement:
    """Return the row of one parameter."""
    found = [row for row in report.parameters if row.name == name]
    assert found, f"no parameter {name!r}: {[row.name for row in report.parameters]}"
    return found[0]


def scripted(model: nn.Module) -> torch.jit.ScriptModule:
    """Return the model after torch.jit.script, save and load."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated upstream
        return saved_and_loaded(torch.jit.script(model))


def traced(model: nn.Module, *inputs: torch.Tensor) -> torch.jit.ScriptModule:
    """Return the model after torch.jit.trace, save and load."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return saved_and_loaded(torch.jit.trace(model, inputs, check_trace=False))


def saved_and_loaded(model: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(file_of(model)))
        return loaded


def file_of(model: torch.jit.ScriptModule) -> bytes:
    """Return the bytes of a TorchScript file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(model, buffer)
    return buffer.getvalue()


def as_job(
    model: torch.jit.ScriptModule | None = None,
    *,
    spec: dict[str, Any] | None = None,
    inputs: Mapping[str, torch.Tensor] | None = None,
    target: torch.Tensor | None = None,
    **settings: Any,
) -> Measurements:
    """Measure as a worker's child does: bytes in, measurements out."""
    data: bytes | None = None
    if inputs is not None:
        tensors = dict(inputs) if target is None else {**inputs, "y": target}
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        settings["data"] = {"artifact": NO_DIGEST, "inputs": list(inputs)}
        if target is not None:
            settings["data"]["target"] = "y"
    job = Job(
        source=from_python(SpecSource, {"spec": spec})
        if spec is not None
        else TorchScriptSource(torchscript=NO_DIGEST),
        settings=from_python(InspectionSettings, settings),
        limits=Limits(threads=torch.get_num_threads()),
    )
    file = file_of(model) if model is not None else None
    return run_job(job, model_bytes=file, weights_bytes=None, data_bytes=data)


def numbers(document: Document | Sequence[Document]) -> dict[str, float | None]:
    """Yield every number of a document with its path."""
    dumped = document.model_dump() if isinstance(document, Document) else [part.model_dump() for part in document]
    return dict(_leaves("", dumped))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, float | None]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _leaves(f"{path}[{index}]", inner)
    elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        yield path, value


def assert_same(left: Any, right: Any, *, relative: float, absolute: float = 0.0, but: tuple[str, ...] = ()) -> None:
    """Compare every number of two documents; `but` names fields that may differ."""
    a, b = numbers(left), numbers(right)
    assert a.keys() == b.keys()
    wrong = [
        f"{path}: {a[path]} and {b[path]}"
        for path in a
        if not any(name in path for name in but) and not _close(a[path], b[path], relative, absolute)
    ]
    assert not wrong, "\n".join(wrong[:20])


def _close(left: float | None, right: float | None, relative: float, absolute: float) -> bool:
    if left is None or right is None:
        return left is right
    return math.isclose(left, right, rel_tol=relative, abs_tol=absolute)


__all__ = ["inspect"]
