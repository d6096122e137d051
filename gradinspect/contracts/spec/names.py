"""Names of a spec's layers: their paths in the model, and weights shared by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradinspect.contracts.spec.layers import Container, Layer
from gradinspect.contracts.spec.plan import Call
from gradinspect.contracts.spec.spec_error import Location, SpecError, name_layer, write_place
from gradinspect.contracts.spelling import did_you_mean

MAX_PATH = 200  # characters; with torch's suffixes a path stays under the 256 allowed for names in reports


@dataclass(slots=True)
class Names:
    """The names seen by a walk.

    Attributes:
        locations: name → its location in the document.
        paths: name → path of its layer in the model.
    """

    locations: dict[str, Location] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)

    def key(
        self, entry: Layer | Container, *, position: int, prefix: str, copies: tuple[int, ...], location: Location
    ) -> str:
        """Return the name of a layer in its module: its `name`, or its position.

        Args:
            entry: the layer.
            position: its index in the list of layers.
            prefix: path of its module, with a dot at the end.
            copies: index of the copy in each surrounding repeat; a named layer gets the indices as suffixes.
            location: of the layer in the document.

        Raises:
            SpecError: the name is taken, or the path is too long.
        """
        if entry.name is None:
            key = str(position)
        else:
            key = entry.name + "".join(f"_{copy}" for copy in copies)
            if key in self.locations:
                where = write_place(self.locations[key])
                raise SpecError((*location, "name"), f"{key!r} is already the name of {where}")
            self.locations[key] = location
            self.paths[key] = prefix + key
        if len(prefix) + len(key) > MAX_PATH:
            raise SpecError(location, f"the layer's path is longer than {MAX_PATH} characters; use shorter names")
        return key


@dataclass(slots=True)
class Ties:
    """Layers that share another layer's weight.

    Attributes:
        requests: each call with a `tie`, and the index of the copy in each surrounding repeat.
    """

    requests: list[tuple[Call, tuple[int, ...]]] = field(default_factory=list)

    def resolve(self, calls: Mapping[str, Call], paths: Mapping[str, str]) -> dict[str, str]:
        """Map the path of each tied call to the path of the call that owns the weight.

        Args:
            calls: path → call.
            paths: name → path.

        Raises:
            SpecError: there is no such weight, its shape differs, or it is itself tied.
        """
        tied = {call.path for call, _ in self.requests}
        owners: dict[str, str] = {}
        for call, copies in self.requests:
            name = call.layer.tie or ""
            location: Location = (*call.location, "tie")
            label = name_layer(call.layer, call.location)
            target = paths.get(_nearest(name, copies, paths))
            if "weight" not in call.parameters:
                raise SpecError(location, f"{label} has no weight to share")
            if target is None:
                raise SpecError(location, f"no layer is named {name!r}{did_you_mean(name, paths)}")
            owner = calls.get(target)
            if owner is None or "weight" not in owner.parameters:
                raise SpecError(location, f"{name!r} has no weight to share")
            if target == call.path:
                raise SpecError(location, "a layer cannot share its own weight")
            if target in tied:
                raise SpecError(location, f"{name!r} shares another layer's weight itself; name that layer instead")
            shape, owned = call.parameters["weight"], owner.parameters["weight"]
            if shape != owned:
                detail = (
                    f"the weight of {label} has shape {list(shape)}, that of {name!r} has {list(owned)}; they must "
                    "agree to be shared"
                )
                raise SpecError(location, detail)
            owners[call.path] = target
        return owners


def _nearest(name: str, copies: tuple[int, ...], names: Mapping[str, str]) -> str:
    """Return the name with the most suffixes of surrounding copies that exists; the name alone otherwise."""
    for length in range(len(copies), 0, -1):
        candidate = name + "".join(f"_{copy}" for copy in copies[:length])
        if candidate in names:
            return candidate
    return name
