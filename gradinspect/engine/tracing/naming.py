"""Name each layer call after the module that a person wrote.

A call is named after the module that owns its parameters. Where one module's parameters meet data in several places
(a GRU's input and hidden weights), or belong to the root, the call takes the full name of its weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex, owner_of
from gradinspect.engine.tracing.calls import LayerCall
from gradinspect.engine.tracing.operator_names import ATEN_FUSED_RECURRENT, ATEN_LOOKUPS


@dataclass(frozen=True, slots=True)
class CallName:
    """Name, kind and call index; name and call together are unique in a report."""

    name: str
    kind: str
    call: int


def name_calls(calls: Sequence[LayerCall], parameters: ParameterIndex) -> list[CallName]:
    """Name all layer calls of a pass, in their order."""
    uses: Counter[ParameterEntry] = Counter()
    owners: list[str] = []
    for call in calls:
        owners.append(_owner(call, parameters, uses))
        uses.update(call.entries)
    sets_of_owner: dict[str, set[frozenset[ParameterEntry]]] = {}
    for owner, call in zip(owners, calls, strict=True):
        sets_of_owner.setdefault(owner, set()).add(frozenset(call.entries))
    seen: Counter[str] = Counter()
    names = []
    for owner, call in zip(owners, calls, strict=True):
        split = owner == "" or len(sets_of_owner[owner]) > 1
        name = _weight(call, owner) if split else owner
        kind = (parameters.kinds.get(owner, "") if owner else "") or call.operation
        if call.operation in ATEN_FUSED_RECURRENT:
            kind = f"{kind} (time steps fused)"  # one kernel and one node: what happens between steps is not seen
        names.append(CallName(name, kind, seen[name]))
        seen[name] += 1
    return names


def layer_of_parameters(calls: Sequence[LayerCall], names: Sequence[CallName]) -> dict[ParameterEntry, str]:
    """For each parameter that entered a call, the name of the first layer it entered."""
    found: dict[ParameterEntry, str] = {}
    for call, name in zip(calls, names, strict=True):
        for entry in call.entries:
            found.setdefault(entry, name.name)
    return found


def _owner(call: LayerCall, parameters: ParameterIndex, uses: Counter[ParameterEntry]) -> str:
    """The module path of a call; a tied tensor has several, and the operation and the count of uses choose."""
    common: set[str] | None = None
    for entry in call.entries:
        paths = {owner_of(name) for name in entry.names}
        common = paths if common is None or not common & paths else common & paths
    first = max(call.entries, key=lambda entry: entry.tensor.dim())
    candidates = [path for path in map(owner_of, first.names) if common and path in common]
    if not candidates:  # a fused operation of several modules belongs to the one that holds them
        return _common_path([owner_of(entry.name) for entry in call.entries])
    looks_up = call.operation in ATEN_LOOKUPS
    fitting = [path for path in candidates if ("Embedding" in parameters.kinds.get(path, "")) == looks_up]
    choices = fitting or candidates
    return choices[min(uses[first], len(choices) - 1)] if len(choices) > 1 else choices[0]


def _common_path(paths: Sequence[str]) -> str:
    """The innermost module that holds all the modules at these paths."""
    together = takewhile(lambda parts: len(set(parts)) == 1, zip(*(path.split(".") for path in paths), strict=False))
    return ".".join(parts[0] for parts in together)


def _weight(call: LayerCall, owner: str) -> str:
    """The name, under `owner`, of the call's parameter with the most axes."""
    entry = max(call.entries, key=lambda candidate: candidate.tensor.dim())
    return next((name for name in entry.names if owner_of(name) == owner), entry.name)
