"""gradinspect: measure, judge and show how gradients flow through a network.

    from gradinspect import inspect
    report = inspect(model, inputs, targets)

Importing this package loads no torch: `inspect` does, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradinspect.version import __version__

if TYPE_CHECKING:
    from gradinspect.client import Client
    from gradinspect.inspection.local import inspect
    from gradinspect.report.shown import Report

__all__ = ["Client", "Report", "__version__", "inspect"]

_HOMES = {
    "inspect": "gradinspect.inspection.local",
    "Client": "gradinspect.client",
    "Report": "gradinspect.report.shown",
}


def __getattr__(name: str) -> Any:  # Any: a module attribute
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "numpy", "safetensors"):
            raise
        raise ImportError(
            f"gradinspect.{name} computes on this machine and needs {error.name}: pip install 'gradinspect[engine]'",
            name=error.name,
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
