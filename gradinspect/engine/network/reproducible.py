"""Seeds and global switches: everything random is drawn from the request's seed, and nothing global stays changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose: data, target, cotangent and probe draws do not depend on one another."""
    mixed = seed
    for letter in purpose.encode():
        mixed = (mixed * 1_000_003 + letter) % 2**63  # odd times anything is one to one: no two seeds meet
    return torch.Generator().manual_seed(mixed)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (dropout inside models draws from them) and restore them afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # `torch.manual_seed` would queue the seed, with a traceback, for devices that are not there: a millisecond.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def ordinary_graphs() -> Iterator[None]:
    """Make TorchScript record ordinary autograd nodes.

    The profiling executor hides the inside of a scripted model in one `DifferentiableGraphBackward` node, and has
    given wrong gradients from the second call on (pytorch issue 108670). Without it, each operation is its own node.
    """
    previous = torch._C._jit_set_profiling_mode(False)
    try:
        yield
    finally:
        torch._C._jit_set_profiling_mode(previous)


@contextmanager
def left_as_found(model: nn.Module, mode: str) -> Iterator[None]:
    """Put the model into `mode`, and restore modes and buffers afterwards (running statistics move in training)."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    held = {m: dict(m._buffers) for m in modes if not isinstance(m, torch.jit.ScriptModule)}
    model.train(mode == "train")
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training != training:
                module.training = training
        for module, named in held.items():
            if any(module._buffers.get(name) is not buffer for name, buffer in named.items()):
                module._buffers.update(named)  # a model may put a new tensor where its buffer was
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
