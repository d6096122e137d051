"""Bytes to models and tensors: TorchScript files and safetensors."""

from __future__ import annotations

import io
import warnings

import torch
from safetensors.torch import load as load_safetensors

from gradinspect.contracts.problems import InspectionError


def load_torchscript(data: bytes) -> torch.jit.ScriptModule:
    """Load a TorchScript file onto the CPU.

    A TorchScript file is a program and loading it runs its author's code: call this in a process that may be lost.

    Raises:
        InspectionError: `invalid_model` when torch does not read it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is deprecated upstream, and supported here
            return torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-any-return, no-untyped-call]
    except (RuntimeError, ValueError, EOFError, UnicodeDecodeError) as error:
        if "allocate memory" in str(error):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise InspectionError("invalid_model", f"torch.jit.load does not read the file: {reason[:500]}") from error


def load_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        InspectionError: `data_mismatch` when the library does not read it.
    """
    try:
        return load_safetensors(data)
    except Exception as error:  # the library raises its own SafetensorError and several built-in types
        raise InspectionError("data_mismatch", f"the safetensors file cannot be read: {str(error)[:300]}") from error
