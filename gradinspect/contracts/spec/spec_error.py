"""Mistakes in a spec, and the names of locations and layers in messages."""

from __future__ import annotations

from gradinspect.contracts.spec.layers import Container, Layer

Location = tuple[int | str, ...]


class SpecError(ValueError):
    """One mistake in a spec: where (a path into the document) and what to change."""

    def __init__(self, location: Location, detail: str) -> None:
        super().__init__(detail)
        self.location = location
        self.detail = detail


def name_layer(node: Layer | Container, here: Location) -> str:
    """Name a layer by its location, its name and its type."""
    name = f" {node.name!r}" if node.name else ""
    return f"{write_place(here)}{name} ({node.type})"


def write_place(location: Location | None) -> str:
    """Write a location in Python's notation, `layers[3].layers[0]`; None is the model's input."""
    if location is None:
        return "the input"
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")
