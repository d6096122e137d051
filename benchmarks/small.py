"""Cost of `inspect()` for small models over a bare forward and backward pass, with everything that a report takes.

Run with `python -m benchmarks.small [--rounds 20]`. CPU time of one thread, median of the rounds. The goal is three
times the bare pass, or 60 ms where that is more.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import nn
from torch.nn import functional

from gradinspect import inspect

GOAL_TIMES, GOAL_MILLISECONDS = 3.0, 60.0

Case = tuple[nn.Module, torch.Tensor, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated upstream
    print(f"{'model':14} {'bare ms':>8} {'inspect ms':>11} {'goal ms':>8}")
    for name, make in CASES.items():
        model, x, y = make()
        bare, whole = [], []
        for _ in range(options.rounds + 1):
            bare.append(seconds(partial(bare_pass, model, x, y)))
            whole.append(seconds(partial(inspect, model, x, y)))
        once, inspected = 1000 * median(bare[1:]), 1000 * median(whole[1:])
        print(f"{name:14} {once:8.2f} {inspected:11.1f} {max(GOAL_TIMES * once, GOAL_MILLISECONDS):8.1f}")


def mlp() -> Case:
    """Make two hidden layers of 64."""
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return model, torch.randn(128, 20), torch.randint(0, 10, (128,))


def deep_mlp() -> Case:
    """Make sixteen hidden layers of 64."""
    hidden = [layer for _ in range(16) for layer in (nn.Linear(64, 64), nn.Tanh())]
    return nn.Sequential(nn.Linear(20, 64), *hidden, nn.Linear(64, 10)), torch.randn(128, 20), torch.randint(10, (128,))


def convolutional() -> Case:
    """Make three convolutions with batch norm on images of 16 × 16."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    return nn.Sequential(*layers, *head), torch.randn(32, 3, 16, 16), torch.randint(10, (32,))


def scripted() -> Case:
    """Make the first one as TorchScript."""
    model, x, y = mlp()
    return torch.jit.script(model), x, y


CASES: dict[str, Callable[[], Case]] = {
    "mlp": mlp,
    "deep mlp": deep_mlp,
    "convolutional": convolutional,
    "scripted mlp": scripted,
}


def bare_pass(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    model.zero_grad()
    functional.cross_entropy(model(x), y).backward()


def seconds(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


if __name__ == "__main__":
    main()
