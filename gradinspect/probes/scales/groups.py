"""Groups of parameters that share a learning-rate scale: those of one leaf module, and modules that share a tensor.

A parameter of the root module itself belongs to the layer call that it enters: otherwise a network written with bare
parameters would be one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradinspect.contracts.report.sections import ScaleGroup
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.parameters import ParameterEntry, owner_of
from gradinspect.engine.tracing.naming import layer_of_parameters

_NAMES_SHOWN = 1024  # the longest list of names that a report takes


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Trained parameters with one common scale.

    Attributes:
        layer: the module's path, or a layer call's name for parameters of the root.
        entries: in registration order.
        looked_up: entries that are tables of an embedding, of which a batch reads only some rows.
    """

    layer: str
    entries: tuple[ParameterEntry, ...]
    looked_up: frozenset[ParameterEntry]

    def report(self, scale: float) -> ScaleGroup:
        """Make the group's row of the report: every tensor under its first name."""
        names = tuple(entry.name for entry in self.entries[:_NAMES_SHOWN])
        return ScaleGroup(layer=self.layer, parameters=names, scale=scale)


def make_groups(s: SectionInput) -> list[ParameterGroup]:
    """Group the trained floating-point parameters of a model; frozen ones are left out.

    Returns:
        Groups in order of registration.
    """
    layer_of = layer_of_parameters(s.reading.calls, s.names)
    trained = [entry for entry in s.parameters if entry.requires_grad and entry.tensor.is_floating_point()]
    homes: dict[ParameterEntry, set[str]] = {}
    for entry in trained:
        owners = {owner_of(name) for name in entry.names}
        homes[entry] = {owner or layer_of.get(entry, entry.name) for owner in owners}
    return [
        ParameterGroup(
            _first_home(entries, layer_of), tuple(entries), frozenset(e for e in entries if _is_looked_up(e, s))
        )
        for entries in _connected(trained, homes)
    ]


def _connected(entries: Sequence[ParameterEntry], homes: dict[ParameterEntry, set[str]]) -> list[list[ParameterEntry]]:
    """Join entries that share a home, directly or through others."""
    group_of: dict[str, list[ParameterEntry]] = {}
    for entry in entries:
        joined: list[ParameterEntry] = []
        for known in {id(group_of[home]): group_of[home] for home in homes[entry] if home in group_of}.values():
            joined.extend(known)
        joined.append(entry)
        for member in joined:
            for home in homes[member]:
                group_of[home] = joined
    order = {entry: index for index, entry in enumerate(entries)}
    distinct = {id(group): sorted(group, key=order.__getitem__) for group in group_of.values()}
    return sorted(distinct.values(), key=lambda group: order[group[0]])


def _first_home(entries: Sequence[ParameterEntry], layer_of: dict[ParameterEntry, str]) -> str:
    first = entries[0]
    return owner_of(first.name) or layer_of.get(first, first.name)


def _is_looked_up(entry: ParameterEntry, s: SectionInput) -> bool:
    return any("Embedding" in s.parameters.kinds.get(owner_of(name), "") for name in entry.names)
