"""Name each layer call after a module of the model.

A call is named after the module that owns its parameters. Where the parameters of one module meet data in several
operations (a GRU's input and hidden weights), or belong to the root, the call takes the full name of its weight.
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
        is_split = owner == "" or len(sets_of_owner[owner]) > 1
        name = _weight_name(call, owner) if is_split else owner
        names.append(CallName(name, _kind(call, owner, parameters), seen[name]))
        seen[name] += 1
    return names


def layer_of_parameters(calls: Sequence[LayerCall], names: Sequence[CallName]) -> dict[ParameterEntry, str]:
    """Return the name of the first layer that each parameter enters."""
    layers: dict[ParameterEntry, str] = {}
    for call, name in zip(calls, names, strict=True):
        for entry in call.entries:
            layers.setdefault(entry, name.name)
    return layers


def _owner(call: LayerCall, parameters: ParameterIndex, uses: Counter[ParameterEntry]) -> str:
    """Return the module path of a call; of a tied tensor's paths, the operation and the number of uses choose one."""
    common: set[str] | None = None
    for entry in call.entries:
        paths = {owner_of(name) for name in entry.names}
        common = paths if common is None or not common & paths else common & paths
    first = _largest_entry(call)
    candidates = [path for path in map(owner_of, first.names) if common and path in common]
    if not candidates:  # a fused operation of several modules belongs to the one that contains them
        return _common_path([owner_of(entry.name) for entry in call.entries])
    is_lookup = call.operation in ATEN_LOOKUPS
    fitting = [path for path in candidates if ("Embedding" in parameters.kinds.get(path, "")) == is_lookup]
    choices = fitting or candidates
    return choices[min(uses[first], len(choices) - 1)] if len(choices) > 1 else choices[0]


def _kind(call: LayerCall, owner: str, parameters: ParameterIndex) -> str:
    kind = (parameters.kinds.get(owner, "") if owner else "") or call.operation
    # One kernel and one autograd node: what happens between the time steps cannot be seen.
    return f"{kind} (time steps fused)" if call.operation in ATEN_FUSED_RECURRENT else kind


def _common_path(paths: Sequence[str]) -> str:
    """Return the path of the innermost module that contains all the modules at these paths."""
    together = takewhile(lambda parts: len(set(parts)) == 1, zip(*(path.split(".") for path in paths), strict=False))
    return ".".join(parts[0] for parts in together)


def _weight_name(call: LayerCall, owner: str) -> str:
    """Return the name, under `owner`, of the call's parameter with the most axes."""
    entry = _largest_entry(call)
    return next((name for name in entry.names if owner_of(name) == owner), entry.name)


def _largest_entry(call: LayerCall) -> ParameterEntry:
    return max(call.entries, key=lambda entry: entry.tensor.dim())
