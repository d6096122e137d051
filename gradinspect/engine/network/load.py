"""Readers of TorchScript and safetensors files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import nn

from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.network.model_errors import read_error

Allows = Callable[[str], bool]


def load_model(kind: str, data: bytes, allows: Allows | None = None) -> nn.Module:
    """Load an uploaded model onto the CPU.

    Args:
        kind: of a `FileSource`.
        data: the file.
        allows: as for `load_torchscript`.

    Raises:
        InspectionError: as the loader of that kind.
    """
    return LOADERS[kind](data, allows)


def load_torchscript(data: bytes, allows: Allows | None = None) -> torch.jit.ScriptModule:
    """Load a TorchScript file onto the CPU.

    A TorchScript file is a program, and loading it runs its author's code: call this in a sandboxed process.

    Args:
        data: the file's content.
        allows: returns True for kinds of nodes (`aten::relu`) that may run; None allows every kind.

    Raises:
        InspectionError: `invalid_model` when torch cannot read it; `unsupported_operator`, with the operator and the
            function that uses it; `model_error` when the file's own code raises.

    Cost: linear in the file's nodes; calls are not followed, so nested calls cannot multiply the work.
    """
    unit = torch._C.CompilationUnit()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # deprecated upstream, still supported here
            # torch.jit.load does the same, without access to the unit that has all functions of the file.
            parts: Any = torch._C  # Any: torch declares these functions, and most of them wrongly
            read = parts.import_ir_module_from_buffer(unit, data, torch.device("cpu"), {}, False)
            model: torch.jit.ScriptModule = torch.jit._recursive.wrap_cpp_module(read)
    except torch.jit.Error as error:  # of a `raise` or an `assert` in the file's own `__setstate__`
        raise InspectionError("model_error", f"loading the file raised {read_error(error)}") from error
    except (RuntimeError, ValueError, EOFError, UnicodeDecodeError) as error:
        if "allocate memory" in str(error):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise InspectionError("invalid_model", f"torch.jit.load does not read the file: {reason[:500]}") from error
    if allows is not None:
        _refuse_operators(unit, allows)
    return model


LOADERS: dict[str, Callable[[bytes, Allows | None], nn.Module]] = {"torchscript": load_torchscript}


def _refuse_operators(unit: Any, allows: Allows) -> None:  # Any: a CompilationUnit, declared without its functions
    for function in unit.get_functions():
        for node in _nodes(function.graph):
            kind = node.kind()
            if not allows(kind):
                name = str(function.qualified_name).removeprefix("__torch__.")
                raise InspectionError("unsupported_operator", f"{name[:200]} uses {kind[:100]}, which is not allowed")


def _nodes(graph: torch._C.Graph) -> Iterator[torch._C.Node]:
    waiting = list(graph.nodes())
    while waiting:
        node = waiting.pop()
        yield node
        for block in node.blocks():
            waiting.extend(block.nodes())


def load_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        InspectionError: `data_mismatch` when the library cannot read it.
    """
    try:
        return load_safetensors(data)
    except Exception as error:  # the library raises its own SafetensorError and several built-in types
        raise InspectionError("data_mismatch", f"the safetensors file cannot be read: {str(error)[:300]}") from error
