"""Seeds and global switches: random draws come from the request's seed, and global state is restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return a CPU generator for one purpose, so that draws for data, target and probes are independent."""
    mixed = seed
    for letter in purpose.encode():
        # Multiplication by an odd number is one to one modulo 2⁶³: two seeds never give the same generator.
        mixed = (mixed * 1_000_003 + letter) % 2**63
    return torch.Generator().manual_seed(mixed)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (dropout inside models draws from them) and restore them afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # `torch.manual_seed` takes a millisecond more: it queues the seed, with a traceback, for absent devices.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def ordinary_graphs() -> Iterator[None]:
    """Make TorchScript record ordinary autograd nodes.

    The profiling executor merges a scripted model into one `DifferentiableGraphBackward` node, and has computed wrong
    gradients from the second call on (pytorch issue 108670). Without it each operation has its own node.
    """
    previous = torch._C._jit_set_profiling_mode(False)
    try:
        yield
    finally:
        torch._C._jit_set_profiling_mode(previous)


def forget_compiled_plans(model: nn.Module) -> None:
    """Drop what the profiling executor has compiled for a scripted model that ran before in this process.

    A compiled plan is used whatever `ordinary_graphs` says. The model's next runs outside compile it again.
    """
    scripted = [module for module in model.modules() if isinstance(module, torch.jit.ScriptModule)]
    previous = torch._C._jit_set_profiling_mode(True)  # without it, torch refuses to drop a plan
    try:
        for module in scripted:
            for name in module._c._method_names():
                module._c._get_method(name)._debug_flush_compilation_cache()
    finally:
        torch._C._jit_set_profiling_mode(previous)


@contextmanager
def left_as_found(model: nn.Module, mode: str) -> Iterator[None]:
    """Put the model into `mode`; restore modes and buffers afterwards (running statistics change in training)."""
    # A frozen TorchScript module has no mode.
    modes = {module: module.training for module in model.modules() if hasattr(module, "training")}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    buffers_of = {m: dict(m._buffers) for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)}
    if model in modes:
        model.train(mode == "train")
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training != training:
                module.training = training
        for module, named in buffers_of.items():
            if any(module._buffers.get(name) is not buffer for name, buffer in named.items()):
                module._buffers.update(named)  # a model may replace a buffer by a new tensor
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
