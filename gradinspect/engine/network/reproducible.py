"""Seeds and global switches: random draws come from the request's seed, and global state is restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

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
    """Put the model into `mode`; restore modes, buffers and attributes afterwards.

    Running statistics change in training, and a model may keep a hidden state, a counter or a list.
    """
    # A frozen TorchScript module has no mode.
    modes = {module: module.training for module in model.modules() if hasattr(module, "training")}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    states = [_state_of(module) for module in model.modules()]
    if isinstance(model, torch.jit.ScriptModule):
        states += _scripted_states(model)
    if model in modes:
        model.train(mode == "train")
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training != training:
                module.training = training
        for restore in states:
            restore()
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _state_of(module: nn.Module) -> Callable[[], None]:
    """Return a function that restores a module's attributes, its buffers' objects, and values that changed in place."""
    if isinstance(module, torch.jit.ScriptModule):
        return lambda: None
    attributes, buffers = dict(module.__dict__), dict(module._buffers)
    contents = [(value, value.copy()) for value in attributes.values() if type(value) in (list, dict, set)]
    tensors = [
        (value, value._version, value.detach().clone())
        for value in attributes.values()
        if isinstance(value, torch.Tensor) and not value.requires_grad and value.layout is torch.strided
    ]

    def restore() -> None:
        for name in [name for name in module.__dict__ if name not in attributes]:
            del module.__dict__[name]
        module.__dict__.update(attributes)
        for held, copied in contents:
            if isinstance(held, list):
                held[:] = copied
            else:
                held.clear()
                held.update(copied)
        for tensor, version, value in tensors:
            if tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(value)
        if any(module._buffers.get(name) is not buffer for name, buffer in buffers.items()):
            module._buffers.update(buffers)

    return restore


def _scripted_states(model: torch.jit.ScriptModule) -> list[Callable[[], None]]:
    """Return functions that restore what the program assigns to attributes, such as a buffer or a hidden state."""
    graph: Any = model.inlined_graph  # Any: torch declares neither graphs nor the modules behind scripted ones
    names = {node.s("name") for node in graph.findAllNodes("prim::SetAttr")}
    parts: list[Any] = [module._c for module in model.modules() if isinstance(module, torch.jit.ScriptModule)]
    return [partial(part.setattr, name, part.getattr(name)) for part in parts for name in names if part.hasattr(name)]
