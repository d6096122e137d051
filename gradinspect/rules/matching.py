"""Matching of the layer calls of two reports: by name, then the rest by order within a kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from gradinspect.contracts.report.rows import LayerMeasurement


@dataclass(frozen=True)
class LayerMatch:
    """Indices in the two reports' lists of layers."""

    base: int
    head: int
    by: Literal["name", "position"]


@dataclass(frozen=True)
class Matching:
    """Matches in the head's order, and the indices without a match."""

    pairs: tuple[LayerMatch, ...]
    only_base: tuple[int, ...]
    only_head: tuple[int, ...]


def match_layers(base: Sequence[LayerMeasurement], head: Sequence[LayerMeasurement]) -> Matching:
    """Match two reports' layer calls.

    A name that ends in a number (`features.3`) is a position in a Sequential and shifts when a layer is inserted before
    it, so such a name counts only where the kinds agree. Of the rest, the k-th call of a kind matches the k-th.
    """
    indices = {(row.name, row.call): index for index, row in enumerate(base)}
    pairs: list[LayerMatch] = []
    left: list[int] = []
    for index, row in enumerate(head):
        match = indices.get((row.name, row.call))
        if match is not None and (base[match].kind == row.kind or not _is_position(row.name)):
            del indices[row.name, row.call]
            pairs.append(LayerMatch(match, index, "name"))
        else:
            left.append(index)
    by_position, only_base, only_head = _by_order_in_kind(base, sorted(indices.values()), head, left)
    pairs += by_position
    return Matching(tuple(sorted(pairs, key=lambda pair: pair.head)), only_base, only_head)


def _by_order_in_kind(
    base: Sequence[LayerMeasurement],
    base_left: Sequence[int],
    head: Sequence[LayerMeasurement],
    head_left: Sequence[int],
) -> tuple[list[LayerMatch], tuple[int, ...], tuple[int, ...]]:
    ours, theirs = _by_kind(base, base_left), _by_kind(head, head_left)
    pairs = [
        LayerMatch(*both, "position")
        for kind, indices in ours.items()
        for both in zip(indices, theirs.get(kind, ()), strict=False)  # stops at the end of the shorter list
    ]
    taken_base, taken_head = {pair.base for pair in pairs}, {pair.head for pair in pairs}
    return (
        pairs,
        tuple(index for index in base_left if index not in taken_base),
        tuple(index for index in head_left if index not in taken_head),
    )


def _by_kind(rows: Sequence[LayerMeasurement], indices: Iterable[int]) -> dict[str, list[int]]:
    kinds: defaultdict[str, list[int]] = defaultdict(list)
    for index in indices:
        kinds[rows[index].kind].append(index)
    return kinds


def _is_position(name: str) -> bool:
    return name.rpartition(".")[2].isdecimal()
