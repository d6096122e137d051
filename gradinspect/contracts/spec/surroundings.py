"""Settings that a layer inherits: frozen containers, copies of a repeat, and the nearest init."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gradinspect.contracts.spec.initialization import Init, Initializer
from gradinspect.contracts.spec.layers import Layer, Shape
from gradinspect.contracts.spec.spec_error import Location, SpecError, name_layer


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The settings that a layer inherits."""

    frozen: bool = False
    depth: int = 0
    weight_init: tuple[Initializer, Location] | None = None
    bias_init: tuple[Initializer, Location] | None = None
    residual_init: tuple[Initializer, Location] | None = None
    copies: tuple[int, ...] = ()  # index of the copy in each surrounding repeat

    def entered(self, init: object, *, frozen: bool, location: Location) -> Surroundings:
        """Return the settings one level deeper; `init` is that of the container or layer entered."""
        weight, bias, residual = self.weight_init, self.bias_init, self.residual_init
        if isinstance(init, Init):
            residual = None if init.weight else residual  # a nearer `weight` replaces outer ones for all weights
            weight = (init.weight, (*location, "init", "weight")) if init.weight else weight
            bias = (init.bias, (*location, "init", "bias")) if init.bias else bias
            residual = (init.residual, (*location, "init", "residual")) if init.residual else residual
        return replace(
            self, frozen=self.frozen or frozen, depth=self.depth + 1, weight_init=weight, bias_init=bias,
            residual_init=residual,
        )  # fmt: skip

    def same_init(self, other: Surroundings) -> bool:
        """Check whether both have the very same initialisers."""
        return (
            self.weight_init is other.weight_init
            and self.bias_init is other.bias_init
            and self.residual_init is other.residual_init
        )


def initializers(
    layer: Layer, parameters: Mapping[str, Shape], context: Surroundings, here: Location
) -> dict[str, Initializer]:
    """Return the initialiser of each of a layer's parameters; parameters without one keep torch's default.

    Raises:
        SpecError: the layer's init names a part that the layer lacks, or an initialiser cannot fill a shape.
    """
    own = layer.init if isinstance(layer.init, Init) else None
    result: dict[str, Initializer] = {}
    parts = ("weight", context.weight_init), ("bias", context.bias_init), ("residual", context.residual_init)
    for part, inherited in parts if any(inherited for _, inherited in parts) else ():
        is_explicit = own is not None and getattr(own, part) is not None
        if inherited is None or not (is_explicit or layer.inherits_init):
            continue
        initializer, origin = inherited
        meant = [
            name
            for name, shape in parameters.items()
            if layer.role(name) in (part, "residual" if part == "weight" else part)
            and (is_explicit or part == "bias" or len(shape) >= 2)
            and not (layer.tie is not None and name == "weight")
        ]
        if is_explicit and not meant:
            why = "is shared; set init where it is owned" if layer.tie and part == "weight" else "does not exist"
            raise SpecError(origin, f"the {part} of {name_layer(layer, here)} {why}")
        for name in meant:
            obstacle = initializer.obstacle(parameters[name])
            if obstacle is not None:
                raise SpecError(origin, f"{name_layer(layer, here)}, {name}: {obstacle}")
            result[name] = initializer
    return result
