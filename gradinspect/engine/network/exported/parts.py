"""The modules of an exported program: empty, with the original's paths, classes' names, parameters and buffers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from gradinspect.contracts.exported.program import Program, StoredTensor
from gradinspect.contracts.problems import InspectionError

MAX_NESTING = 100  # modules in modules
# Classes of torch's modules that are never called, so that no operation of the file names them.
_NEVER_CALLED = {("MultiheadAttention", "out_proj"): "NonDynamicallyQuantizableLinear"}


class Part(nn.Module):
    """A module of the original, of which only its path and its tensors are left.

    Args:
        original_name: of its class; empty where the file does not say.
    """

    def __init__(self, original_name: str) -> None:
        super().__init__()
        self._original_name = original_name

    @property
    def class_name(self) -> str:
        """Name of the original's class; empty where the file does not say."""
        return self._original_name


def fill(root: Part, program: Program, data: bytes) -> dict[str, tuple[Part, str]]:
    """Make all modules, parameters, buffers and constants of a program.

    Args:
        root: the model, empty.
        program: from `intake.exported`.
        data: the whole file.

    Returns:
        For each name in the graph the module and attribute that hold the tensor.

    Raises:
        InspectionError: `invalid_model`, for a name that no module can have.
    """
    modules: dict[str, Part] = {"": root}
    for path in program.kinds:
        _part(modules, path, program.kinds)
    storages = _Storages(data)
    places: dict[str, tuple[Part, str]] = {}
    parameters: dict[StoredTensor, nn.Parameter] = {}
    for value, stored in program.parameters:
        key = replace(stored, name="")
        if key not in parameters:
            parameters[key] = nn.Parameter(storages.tensor(stored), requires_grad=stored.requires_grad)
        places[value] = _register(modules, program.kinds, stored.name, parameters[key])
    for value, stored in (*program.buffers, *program.constants):
        # A constant becomes a buffer, which moves with the model as an attribute would not.
        places[value] = _register(modules, program.kinds, stored.name, storages.tensor(stored))
    return places


def _register(modules: dict[str, Part], kinds: Mapping[str, str], name: str, tensor: torch.Tensor) -> tuple[Part, str]:
    path, _, leaf = name.rpartition(".")
    owner = _part(modules, path, kinds)
    try:
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(leaf, tensor)
        else:
            owner.register_buffer(leaf, tensor)
    except (KeyError, TypeError) as error:
        raise InspectionError("invalid_model", f"no module has a tensor called {name[:120]!r}: {error}") from None
    return owner, leaf


def _part(modules: dict[str, Part], path: str, kinds: Mapping[str, str]) -> Part:
    """Return the module at a path; make it, and those that contain it, where they are missing."""
    known = modules.get(path)
    if known is not None:
        return known
    steps = path.split(".")
    if len(steps) > MAX_NESTING:
        raise InspectionError("invalid_model", f"a module is nested in more than {MAX_NESTING}: {path[:120]!r}")
    for depth in range(1, len(steps) + 1):
        here, above = ".".join(steps[:depth]), ".".join(steps[: depth - 1])
        if here in modules:
            continue
        owner, leaf = modules[above], steps[depth - 1]
        part = Part(_NEVER_CALLED.get((owner.class_name, leaf)) or kinds.get(here, ""))
        try:
            owner.add_module(leaf, part)
        except (KeyError, TypeError) as error:
            raise InspectionError("invalid_model", f"no model has a module called {here[:120]!r}: {error}") from None
        modules[here] = part
    return modules[path]


class _Storages:
    """The bytes of a file as tensors; names of one storage share its memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._known: dict[tuple[int, str], torch.Tensor] = {}

    def tensor(self, stored: StoredTensor) -> torch.Tensor:
        """Return a tensor of the values in the file."""
        dtype: torch.dtype = getattr(torch, stored.dtype)
        key = (stored.start, stored.dtype)
        if key not in self._known:
            self._known[key] = self._read(stored, dtype)
        return self._known[key].as_strided(stored.shape, stored.strides, stored.offset)

    def _read(self, stored: StoredTensor, dtype: torch.dtype) -> torch.Tensor:
        count = stored.size_bytes // dtype.itemsize
        if count == 0:
            return torch.empty(0, dtype=dtype)
        is_bool = dtype is torch.bool
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the bytes are read-only, and only copied
            values = torch.frombuffer(self._data, dtype=torch.uint8, count=count * dtype.itemsize, offset=stored.start)
        # The copy is aligned as torch's own tensors are. A byte other than 0 and 1 is no bool.
        return values != 0 if is_bool else values.clone().view(dtype)
