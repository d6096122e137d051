"""Installation of the rules in autograd's table while a backward pass is recorded, for eager and scripted models."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gradinspect.engine.autograd import activation_rules, batch_norm_rule, convolution_rules, layer_norm_rule
from gradinspect.engine.autograd.registry import RULES

FAMILIES = (activation_rules, batch_norm_rule, convolution_rules, layer_norm_rule)  # importing them registers rules

_KEYS = ("AutogradCPU", "AutogradCUDA")
_installed: list[str] = []


@contextmanager
def short_second_derivatives() -> Iterator[None]:
    """Record the backward passes of ReLU, GELU, convolutions, batch and layer normalisation with our rules.

    What is recorded inside the block keeps the rules afterwards. First derivatives stay torch's, and cuDNN's batch
    normalisation is another operator with torch's own rule. Run models and losses outside the block: they may
    differentiate themselves, and a third derivative is refused.

    Torch has one table of rules for the process, which must not be written while other threads read it. In a process
    with several Python threads nothing is installed, and torch's slower formulas are used.
    """
    if _installed or not _is_single_threaded():
        yield
        return
    with torch.library._scoped_library("aten", "IMPL") as library:
        for name, rule in RULES.items():
            for key in _KEYS:
                library.impl(name, rule, key)
        _installed.extend(RULES)
        try:
            yield
        finally:
            _installed.clear()


def installed_rules() -> tuple[str, ...]:
    """Return the names of the operators that autograd currently differentiates by our rules."""
    return tuple(_installed)


def _is_single_threaded() -> bool:
    return threading.active_count() == 1
