"""Twenty reports whose numbers a refactoring must not change, and the comparison of two such sets.

    python -m tests.support.report_equality write before.json     # with the old code on PYTHONPATH
    python -m tests.support.report_equality compare before.json   # with the new code

It uses the public function `gradinspect.inspect` only, so the same file runs against older versions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any  # Any: JSON documents and keyword arguments of inspect

import torch
from torch import nn

import gradinspect

if TYPE_CHECKING:  # at run time this file needs the public names only
    from gradinspect.contracts.sections import Diagnostic

# Fields that measure the machine, the clock or the budget they left, not the model.
UNSTABLE = {
    "wall_seconds", "cpu_seconds", "peak_memory_bytes", "stages", "seconds", "threads", "created_at", "id",
    "gradinspect_version", "confinement", "torch_version", "torch", "device_name", "bare_seconds",
}  # fmt: skip
# Sections whose text is rewritten on purpose; their numbers are compared through layers and parameters.
WORDS = {"message", "explanation", "reason", "detail", "code", "text", "title", "note", "description"}


def specification(activation: str, depth: int, width: int = 32, **weight: Any) -> dict[str, Any]:
    """Return a chain of `depth` dense layers in front of a head of four classes."""
    block = {"repeat": depth, "layers": [{"type": "Linear", "out_features": width}, {"type": activation}]}
    init = {"init": {"weight": weight}} if weight else {}
    return {"input": {"shape": [8]}, "layers": [block, {"type": "Linear", "out_features": 4}], **init}


class Recurrent(nn.Module):
    """An embedding, an LSTM and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.lstm = nn.LSTM(16, 16, num_layers=2, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Classify by the last step."""
        states, _ = self.lstm(self.embedding(tokens))  # (batch, time, 16)
        logits: torch.Tensor = self.head(states[:, -1])  # (batch, 4)
        return logits


class Tied(nn.Module):
    """One weight used twice, with a functional activation."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the shared layer twice."""
        logits: torch.Tensor = self.head(torch.tanh(self.linear(torch.relu(self.linear(x)))))  # (batch, 4)
        return logits


def convolutional() -> nn.Module:
    """Return a small convolutional network with batch and group normalisation."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.GroupNorm(2, 8), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def transformer() -> nn.Module:
    """Return two encoder layers over embedded tokens."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    return nn.Sequential(nn.Embedding(20, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


def flat(classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 32 samples of eight features, and their classes."""
    return torch.randn(32, 8), torch.randint(classes, (32,))


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 16 images of 3 × 12 × 12, and their classes."""
    return torch.randn(16, 3, 12, 12), torch.randint(4, (16,))


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 16 sequences of ten tokens, and their classes."""
    return torch.randint(20, (16, 10)), torch.randint(4, (16,))


def sequences() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 16 sequences of ten tokens, and a vector for each token."""
    return torch.randint(20, (16, 10)), torch.randn(16, 10, 16)


def chain(*layers: nn.Module) -> nn.Module:
    """Return a sequence of layers with a head of four classes."""
    return nn.Sequential(*layers, nn.Linear(8, 4))


Model = Callable[[], Any]
HE: dict[str, Any] = {"name": "kaiming_normal_", "nonlinearity": "relu"}
EVERYTHING: tuple[Diagnostic, ...] = ("gradients", "signals", "noise", "curvature", "jacobian", "training_trace")
SGD = {"type": "sgd", "lr": 0.1, "momentum": 0.9}


def _modules(model: Model, batch: Model, **options: Any) -> gradinspect.Report:
    torch.manual_seed(0)
    made = model()
    return gradinspect.inspect(made, *batch(), **options)


def _scripted(model: Model, batch: Model, **options: Any) -> gradinspect.Report:
    torch.manual_seed(0)
    made: torch.jit.ScriptModule = torch.jit.script(model())
    return gradinspect.inspect(made, *batch(), **options)


REPORTS: dict[str, Callable[[], gradinspect.Report]] = {
    "spec relu he": lambda: gradinspect.inspect(specification("ReLU", 4, **HE), seed=1),
    "spec sigmoid": lambda: gradinspect.inspect(specification("Sigmoid", 9)),
    "spec tanh adam": lambda: gradinspect.inspect(specification("Tanh", 5), optimizer={"type": "adam"}),
    "spec gelu everything": lambda: gradinspect.inspect(
        specification("GELU", 3), diagnostics=EVERYTHING, optimizer=SGD
    ),
    "spec one layer": lambda: gradinspect.inspect(
        {"input": {"shape": [8]}, "layers": [{"type": "Linear", "out_features": 4}]}
    ),
    "spec float16": lambda: gradinspect.inspect(
        specification("ReLU", 4), precision={"intended": "float16", "loss_scale": 1024.0}
    ),
    "spec scales": lambda: gradinspect.inspect(
        specification("ReLU", 2, 16, **HE), optimizer=SGD, lr_scales={"probe_steps": 20, "seeds": 2}
    ),
    "spec scales unverified": lambda: gradinspect.inspect(
        specification("Tanh", 4), optimizer={"type": "sgd", "lr": 0.05}, lr_scales={"verify": False}
    ),
    "preset resnet": lambda: gradinspect.inspect({"preset": "resnet"}),
    "preset transformer": lambda: gradinspect.inspect({"preset": "transformer"}),
    "linear chain": lambda: _modules(lambda: chain(nn.Linear(8, 8), nn.Linear(8, 8)), flat, diagnostics=EVERYTHING),
    "leaky eval": lambda: _modules(
        lambda: chain(nn.Linear(8, 8), nn.LeakyReLU(0.2), nn.Linear(8, 8), nn.ELU()), flat, mode="eval"
    ),
    "not finite": lambda: _modules(lambda: chain(nn.Linear(8, 8), nn.ReLU()), lambda: (flat()[0] * 1e38, flat()[1])),
    "tied": lambda: _modules(Tied, flat, diagnostics=EVERYTHING, optimizer=SGD),
    "tied scripted": lambda: _scripted(Tied, flat, diagnostics=("gradients", "signals", "noise")),
    "convolutional": lambda: _modules(convolutional, images, diagnostics=EVERYTHING, optimizer=SGD),
    "convolutional scripted": lambda: _scripted(convolutional, images, diagnostics=("gradients", "signals")),
    "recurrent": lambda: _modules(Recurrent, tokens, optimizer={"type": "adamw", "lr": 1e-3}),
    "recurrent noise": lambda: _modules(Recurrent, tokens, diagnostics=("gradients", "signals", "noise", "curvature")),
    "transformer": lambda: _modules(transformer, sequences, loss="mse", diagnostics=EVERYTHING),
}


def numbers(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield every value of a report with its path, without words, times and the machine."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in UNSTABLE | WORDS:
                yield from numbers(part, f"{path}/{key}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from numbers(part, f"{path}/{index}")
    else:
        yield path, value


def documents() -> dict[str, dict[str, object]]:
    """Make all reports on one thread; return their values by path."""
    torch.set_num_threads(1)
    made = {}
    for name, make in REPORTS.items():
        report = json.loads(make().model_dump_json())
        made[name] = dict(numbers(report))
    return made


def differences(before: dict[str, dict[str, object]], after: dict[str, dict[str, object]]) -> Iterator[str]:
    """Yield one line for each value that changed or is gone; new fields are no difference."""
    for name, values in before.items():
        for path, value in values.items():
            if path not in after[name]:
                yield f"{name}{path}: {value!r} is gone"
            elif after[name][path] != value:
                yield f"{name}{path}: {value!r} became {after[name][path]!r}"


def main() -> None:
    """Write the reports of this code, or compare them with written ones."""
    action, file = sys.argv[1:]
    made = documents()
    if action == "write":
        Path(file).write_text(json.dumps(made), encoding="utf-8")
        return
    # Through JSON on both sides: the same text for the same float.
    changed = list(differences(json.loads(Path(file).read_text(encoding="utf-8")), json.loads(json.dumps(made))))
    total = sum(len(values) for values in made.values())
    lines = [*changed[:60], f"{len(made)} reports, {total} values, {len(changed)} differences"]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(bool(changed))


if __name__ == "__main__":
    main()
