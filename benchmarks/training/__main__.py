"""What watching costs a training run, in CPU time of all threads: whole runs, watched and not, in turns.

    python -m benchmarks.training [--steps 200] [--every 20] [--pairs 3] [--loops plain,lightning,transformers]

Each pair trains the same network from the same seed on the same batches, with and without a watch that writes a file.
Loops of libraries that are not installed are left out. The network is small, so that the figure is one of the watch and
not of the matrix products: larger networks pay a smaller share.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gradinspect.training import lightning_callback, transformers_callback, watch

WIDTH, DEPTH, SAMPLES, CLASSES = 512, 6, 256, 10
Loop = Callable[[int, int | None, Path], None]


class Classifier(nn.Module):
    """An MLP whose forward takes a target as the trainers of transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU())]
        self.layers = nn.Sequential(*blocks, nn.Linear(WIDTH, CLASSES))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.layers(x)  # (samples, classes)
        return {"logits": logits} if labels is None else {"loss": functional.cross_entropy(logits, labels)}


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(8 * SAMPLES, WIDTH, generator=draws)
    y = torch.randint(CLASSES, (8 * SAMPLES,), generator=draws)
    return [
        (x[start : start + SAMPLES], y[start : start + SAMPLES])
        for start in (SAMPLES * (index % 8) for index in range(count))
    ]


def plain(steps: int, every: int | None, file: Path) -> None:
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train() -> None:
        for x, y in batches(steps):
            optimizer.zero_grad()
            model(x, y)["loss"].backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    if every is None:
        train()
        return
    with watch(model, every=every, file=file):
        train()


def lightning(steps: int, every: int | None, file: Path) -> None:
    from lightning.pytorch import LightningModule, Trainer
    from torch.utils.data import DataLoader

    class Module(LightningModule):  # type: ignore[misc]  # not installed where types are checked
        def __init__(self) -> None:
            super().__init__()
            self.model = Classifier()

        def training_step(self, batch: list[torch.Tensor], _index: int) -> torch.Tensor:
            loss: torch.Tensor = self.model(batch[0], batch[1])["loss"]
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    loader: DataLoader[Any] = DataLoader(batches(steps), batch_size=None)  # type: ignore[arg-type]  # Any: a list
    callbacks = [] if every is None else [lightning_callback(every=every, file=file)]
    Trainer(
        max_steps=steps, callbacks=callbacks, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
    ).fit(Module(), loader)  # fmt: skip


def transformers(steps: int, every: int | None, file: Path) -> None:
    from transformers import Trainer, TrainingArguments

    rows = [{"x": x, "labels": y} for xs, ys in batches(8) for x, y in zip(xs, ys, strict=True)]
    callbacks = [] if every is None else [transformers_callback(every=every, file=file)]
    arguments = TrainingArguments(
        output_dir=str(file.parent / "out"), max_steps=steps, per_device_train_batch_size=SAMPLES, report_to=[],
        save_strategy="no", logging_strategy="no", use_cpu=True, disable_tqdm=True, learning_rate=1e-3,
    )  # fmt: skip
    Trainer(model=Classifier(), args=arguments, train_dataset=rows, callbacks=callbacks).train()


LOOPS: dict[str, tuple[Loop, str]] = {
    "plain": (plain, "torch"), "lightning": (lightning, "lightning"), "transformers": (transformers, "transformers"),
}  # fmt: skip


def seconds(loop: Loop, steps: int, every: int | None, folder: Path) -> float:
    torch.manual_seed(0)
    started = time.process_time()
    loop(steps, every, folder / "run.jsonl")
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--loops", default=",".join(LOOPS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'loop':<14}{'bare':>10}{'watched':>10}{'overhead':>10}   each pair")
    for name in options.loops.split(","):
        loop, package = LOOPS[name]
        if find_spec(package) is None:
            print(f"{name:<14}{package} is not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            seconds(loop, 20, 10, Path(folder))  # warm
            pairs = [
                tuple(seconds(loop, options.steps, every, Path(folder)) for every in (None, options.every))
                for _ in range(options.pairs)
            ]
        ratios = [watched / bare - 1.0 for bare, watched in pairs]
        bare, watched = (statistics.median(side) for side in zip(*pairs, strict=True))
        each = ", ".join(f"{ratio:+.1%}" for ratio in ratios)
        print(f"{name:<14}{bare:>8.2f} s{watched:>8.2f} s{statistics.median(ratios):>10.1%}   {each}")


if __name__ == "__main__":
    main()
