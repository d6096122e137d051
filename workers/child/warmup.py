"""Warm-up: run every part of torch and of the engine once, so that a confined child has no file left to open.

A child that cannot open files can neither import a module on first use nor load a library. Whatever was used here, in
the fork server and on one thread, is inherited by every child.
"""

from __future__ import annotations

import gc
import io
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.sections import DIAGNOSTICS
from gradinspect.contracts.wire.messages import Job, Limits
from gradinspect.inspection.job import run_job
from workers.child.small_program import small_program

Json = dict[str, Any]  # Any: JSON until it is validated
NO_DIGEST = f"sha256:{'0' * 64}"  # the bytes come as arguments

EXPORTED: Json = {"kind": "exported", "exported": NO_DIGEST}
FEW_STEPS: Json = {"steps": 20, "seconds": 5.0}
PLAIN: Json = {"trial": FEW_STEPS}
TRIED: Json = {"trial": {"steps": 200, "seconds": 5.0}, "optimizer": {"type": "sgd", "lr": 0.1}}
EVERYTHING: Json = {
    **PLAIN,
    "diagnostics": list(DIAGNOSTICS),
    "optimizer": {"type": "adam", "lr": 1e-3},
    "precision": {"intended": "float16"},
}
SCALES: Json = {**EVERYTHING, "lr_scales": {"probe_steps": 10, "seeds": 1}}

MLP = {
    "input": {"shape": [4]},
    "layers": [{"type": "Linear", "out_features": 4}, {"type": "ReLU"}, {"type": "Linear", "out_features": 3}],
}
SICK = {  # a prescription is tried for it: torch.optim imports a compiler on first use
    "input": {"shape": [4]},
    "layers": [
        {"repeat": 8, "layers": [{"type": "Linear", "out_features": 8}, {"type": "Sigmoid"}]},
        {"type": "Linear", "out_features": 3},
    ],
}
CNN = {
    "input": {"shape": [1, 8, 8]},
    "layers": [
        {"type": "Conv2d", "out_channels": 2, "kernel_size": 3}, {"type": "BatchNorm2d"}, {"type": "ReLU"},
        {"type": "MaxPool2d", "kernel_size": 2}, {"type": "Flatten"}, {"type": "Linear", "out_features": 3},
    ],
}  # fmt: skip


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.lstm(self.embedding(tokens))[0][:, -1])
        return output


class _Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.layer(x).mean(dim=1))
        return output


@dataclass(frozen=True)
class Warmed:
    """The result of the warm-up.

    Attributes:
        torch_version: of this process.
        compute: runs a small job of each kind, as a confined child must be able to; raises if it cannot.
    """

    torch_version: str
    compute: Callable[[], None]


def warm_up() -> Warmed:
    """Run tiny jobs of every kind, on one thread."""
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    for settings in (PLAIN, SCALES):
        _try(_built(MLP), settings)
    _try(_built(SICK), TRIED)
    _try(_built(CNN), EVERYTHING)
    for dtype in ("float64", "bfloat16", "float16"):
        _try(_built(CNN), {**PLAIN, "precision": {"compute": dtype}})
    for model, sample in _uploads():
        file, source = _scripted(model), _loaded(sample)
        _try(source, EVERYTHING, file)
        # A file that does not load: errors import modules on first use, too.
        _try(source, PLAIN, file[: len(file) // 2])
    _try(EXPORTED, EVERYTHING, small_program())
    _try(EXPORTED, PLAIN, small_program()[:-30])
    _warm_tensor_files()
    gc.collect()
    gc.freeze()  # children share these pages instead of copying them at their first collection
    return Warmed(torch.__version__, partial(_compute, file, sample))


def _compute(file: bytes, sample: Json) -> None:
    _run(_built(CNN), PLAIN)
    _run(_loaded(sample), PLAIN, file)


def _built(spec: Json) -> Json:
    return {"kind": "spec", "spec": spec}


def _loaded(sample: Json | None) -> Json:
    return {"kind": "torchscript", "torchscript": NO_DIGEST, "input": sample}


def _uploads() -> list[tuple[nn.Module, Json]]:
    mlp = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.1), nn.LayerNorm(4), nn.Linear(4, 3))
    cnn = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GELU(), nn.Flatten(), nn.Linear(72, 3))
    return [
        (mlp, {"shape": [4]}),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).half(), {"shape": [4], "dtype": "float16"}),
        (cnn, {"shape": [1, 8, 8]}),
        (_Transformer(), {"shape": [3, 4]}),
    ]


def _scripted(model: nn.Module) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated upstream, and supported here
        torch.jit.save(torch.jit.script(model), file)
    return file.getvalue()


def _try(source: Json, settings: Json, model: bytes | None = None, data: bytes | None = None) -> None:
    """Run a job and ignore its failure: most of what it needs is warm all the same."""
    try:
        _run(source, settings, model, data)
    except InspectionError:
        pass
    except Exception:  # noqa: BLE001  # a defect of one section must not stop the others
        traceback.print_exc()


def _run(source: Json, settings: Json, model: bytes | None = None, data: bytes | None = None) -> None:
    limits = Limits(threads=1).model_dump(mode="json")
    job = from_python(Job, {"source": source, "settings": settings, "limits": limits})
    run_job(job, model_bytes=model, weights_bytes=None, data_bytes=data).model_dump_json()


def _warm_tensor_files() -> None:
    from safetensors.torch import save

    tokens = {"tokens": torch.zeros(4, 3, dtype=torch.int64), "y": torch.zeros(4, dtype=torch.int64)}
    data = {"artifact": NO_DIGEST, "inputs": ["tokens"], "target": "y"}
    _try(_loaded(None), {**PLAIN, "data": data}, _scripted(_Recurrent()), save(tokens))
