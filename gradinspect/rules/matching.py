"""Which layer call of one report is which of another: by name, and what is left by its place among its kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from gradinspect.contracts.report.rows import LayerMeasurement


@dataclass(frozen=True)
class LayerMatch:
    """Places in the two reports' lists of layers."""

    base: int
    head: int
    by: Literal["name", "position"]


@dataclass(frozen=True)
class Matching:
    """Matches in the head's order, and the places that found none."""

    pairs: tuple[LayerMatch, ...]
    only_base: tuple[int, ...]
    only_head: tuple[int, ...]


def match_layers(base: Sequence[LayerMeasurement], head: Sequence[LayerMeasurement]) -> Matching:
    """Match two reports' layer calls.

    A name that ends in a number (`features.3`) is a place in a Sequential: a layer put in before it shifts it on, so
    such a name counts only where the kinds agree. Of what is left, the k-th call of a kind is taken for the k-th.
    """
    places = {(row.name, row.call): place for place, row in enumerate(base)}
    pairs: list[LayerMatch] = []
    left: list[int] = []
    for place, row in enumerate(head):
        found = places.get((row.name, row.call))
        if found is not None and (base[found].kind == row.kind or not _is_a_place(row.name)):
            del places[row.name, row.call]
            pairs.append(LayerMatch(found, place, "name"))
        else:
            left.append(place)
    by_position, only_base, only_head = _by_place_among_kind(base, sorted(places.values()), head, left)
    pairs += by_position
    return Matching(tuple(sorted(pairs, key=lambda pair: pair.head)), only_base, only_head)


def _by_place_among_kind(
    base: Sequence[LayerMeasurement],
    base_left: Sequence[int],
    head: Sequence[LayerMeasurement],
    head_left: Sequence[int],
) -> tuple[list[LayerMatch], tuple[int, ...], tuple[int, ...]]:
    ours, theirs = _by_kind(base, base_left), _by_kind(head, head_left)
    pairs = [
        LayerMatch(*both, "position")
        for kind, places in ours.items()
        for both in zip(places, theirs.get(kind, ()), strict=False)  # the shorter list ends it
    ]
    taken_base, taken_head = {pair.base for pair in pairs}, {pair.head for pair in pairs}
    return (
        pairs,
        tuple(place for place in base_left if place not in taken_base),
        tuple(place for place in head_left if place not in taken_head),
    )


def _by_kind(rows: Sequence[LayerMeasurement], places: Iterable[int]) -> dict[str, list[int]]:
    kinds: defaultdict[str, list[int]] = defaultdict(list)
    for place in places:
        kinds[rows[place].kind].append(place)
    return kinds


def _is_a_place(name: str) -> bool:
    return name.rpartition(".")[2].isdecimal()
