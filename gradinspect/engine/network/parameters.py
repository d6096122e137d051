"""The parameters of a model, with tied weights as one entry with aliases.

A loaded TorchScript file stores a tied weight as two parameters over one storage, an eager module as one parameter
under two names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from gradinspect.contracts.document import MAX_NAME
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.rows import MAX_PARAMETERS
from gradinspect.engine.network.exported.parts import Part


@dataclass(eq=False, slots=True)
class ParameterEntry:
    """One parameter tensor of the model.

    Attributes:
        name: its first name in registration order.
        aliases: its other names.
        members: the tensor objects that share its memory; more than one only in loaded TorchScript.
    """

    name: str
    members: list[torch.Tensor]
    aliases: list[str] = field(default_factory=list)

    @property
    def tensor(self) -> torch.Tensor:
        """The values."""
        return self.members[0]

    @property
    def requires_grad(self) -> bool:
        """True if any member is trained."""
        return any(member.requires_grad for member in self.members)

    @property
    def names(self) -> tuple[str, ...]:
        """Name and aliases."""
        return (self.name, *self.aliases)


class ParameterIndex:
    """The entries of a model, found by tensor object or by memory."""

    def __init__(self, model: nn.Module) -> None:
        self.entries: list[ParameterEntry] = []
        self._by_object: dict[int, ParameterEntry] = {}
        self._by_storage: dict[int, list[ParameterEntry]] = {}
        for name, tensor in model.named_parameters(remove_duplicate=False):
            self._add(name, tensor)
        if len(self.entries) > MAX_PARAMETERS:
            raise InspectionError(
                "invalid_model",
                f"the model has {len(self.entries):,} parameters; a report holds at most {MAX_PARAMETERS:,}",
            )
        self.kinds = {path: _kind(module) for path, module in model.named_modules(remove_duplicate=False)}

    def __iter__(self) -> Iterator[ParameterEntry]:
        return iter(self.entries)

    def of_object(self, tensor: torch.Tensor) -> ParameterEntry | None:
        """Return the entry of a parameter object."""
        return self._by_object.get(id(tensor))

    def of_memory(self, tensor: torch.Tensor) -> ParameterEntry | None:
        """Return the entry whose memory a tensor is, or is a view of."""
        if tensor.layout is not torch.strided:
            return self.of_object(tensor)
        candidates = self._by_storage.get(tensor.untyped_storage().data_ptr())
        if candidates is None:
            return None
        start = tensor.data_ptr()
        for entry in candidates:
            first = entry.tensor.data_ptr()
            if first <= start < first + entry.tensor.numel() * entry.tensor.element_size():
                return entry
        return None

    def _add(self, name: str, tensor: torch.Tensor) -> None:
        if isinstance(tensor, UninitializedParameter):
            raise InspectionError(
                "invalid_model", f"the parameter {name!r} of a lazy module has no shape yet; call the model once first"
            )
        if len(name) > MAX_NAME:
            raise InspectionError(
                "invalid_model",
                f"a parameter has a name of {len(name):,} characters, {name[:40]!r}…; at most {MAX_NAME} are taken",
            )
        in_storage = self._in_storage_of(tensor)
        entry = self._by_object.get(id(tensor)) or _same_memory(tensor, in_storage)
        if entry is None:
            entry = ParameterEntry(name, [tensor])
            self.entries.append(entry)
            in_storage.append(entry)
        else:
            entry.aliases.append(name)
            if all(member is not tensor for member in entry.members):
                entry.members.append(tensor)
        self._by_object[id(tensor)] = entry

    def _in_storage_of(self, tensor: torch.Tensor) -> list[ParameterEntry]:
        """Return the entries in a tensor's storage, to be extended; a new list if it has no storage to share."""
        if tensor.layout is not torch.strided or not tensor.numel():
            return []
        return self._by_storage.setdefault(tensor.untyped_storage().data_ptr(), [])


def _same_memory(tensor: torch.Tensor, entries: list[ParameterEntry]) -> ParameterEntry | None:
    for entry in entries:
        other = entry.tensor
        if (other.data_ptr(), other.shape, other.stride()) == (tensor.data_ptr(), tensor.shape, tensor.stride()):
            return entry
    return None


def owner_of(name: str) -> str:
    """Return the path of the module that owns a parameter; empty for the root.

    A parametrised weight belongs to the module whose weight it becomes:

    >>> owner_of("0.weight"), owner_of("0.parametrizations.weight.original0"), owner_of("scale")
    ('0', '0', '')
    """
    path = f".{name}".rpartition(".")[0]
    return path.partition(".parametrizations")[0].removeprefix(".")


def _kind(module: nn.Module) -> str:
    """Return the class name in the user's source, which TorchScript, an export and parametrisations replace."""
    if isinstance(module, torch.jit.ScriptModule | Part):
        name = module.class_name if isinstance(module, Part) else str(module.original_name)
        return (name.removeprefix("Parametrized") if hasattr(module, "parametrizations") else name)[:MAX_NAME]
    kind = type(module)
    is_replaced = kind.__name__ == f"Parametrized{kind.__bases__[0].__name__}"
    return (kind.__bases__[0] if is_replaced else kind).__name__[:MAX_NAME]
