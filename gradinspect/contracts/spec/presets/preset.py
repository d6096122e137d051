"""Common base of presets: an input, a number of outputs, an optional init, and an expansion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gradinspect.contracts.document import Document, Finite
from gradinspect.contracts.nonlinearities import NONLINEARITIES
from gradinspect.contracts.spec.initialization import Init
from gradinspect.contracts.spec.spec_input import SpecInput

Json = dict[str, Any]  # Any: JSON, validated as a spec immediately
Width = Annotated[int, Field(ge=1, le=2**20)]
Depth = Annotated[int, Field(ge=1, le=1000)]
Drop = Annotated[Finite, Field(ge=0, lt=1)]

_ACTIVATIONS = (
    *(layer.name for record in NONLINEARITIES if record.is_in_presets for layer in record.layers), "Identity"
)  # fmt: skip


def _as_torch_writes_it(value: object) -> object:
    """Accept any capitalization: `relu` is `ReLU`."""
    known = {name.lower(): name for name in _ACTIVATIONS}
    return known.get(value.lower(), value) if isinstance(value, str) else value


if TYPE_CHECKING:
    Activation = str
else:
    Activation = Annotated[Literal[_ACTIVATIONS], BeforeValidator(_as_torch_writes_it)]


class PresetError(ValueError):
    """Two arguments of a preset exclude each other; `field` is the path to the one to change."""

    def __init__(self, field: tuple[str | int, ...], detail: str) -> None:
        super().__init__(detail)
        self.field = field
        self.detail = detail


class Preset(Document, ABC):
    """A network described by a few numbers."""

    preset: str
    input: SpecInput
    num_classes: Annotated[int, Field(ge=1, le=2**20)] = Field(default=10, description="Numbers that come out.")
    init: Init | None = Field(default=None, description="For every layer, instead of what the preset starts from.")

    @abstractmethod
    def layers(self) -> list[Json]:
        """Return the layers.

        Raises:
            PresetError: arguments that exclude each other.
        """

    def recommended_init(self) -> Json | None:
        """Return the init that is usual for the network; None keeps torch's defaults."""
        return None

    def expand(self) -> Json:
        """Return the plain spec."""
        spec: Json = {"input": self.input.model_dump(mode="json", exclude_none=True), "layers": self.layers()}
        init = self.recommended_init() if self.init is None else self.init.model_dump(mode="json", exclude_none=True)
        return spec if init is None else spec | {"init": init}

    def need_floats(self) -> None:
        """Refuse integer tokens."""
        if self.input.holds_tokens:
            raise PresetError(
                ("input", "dtype"), f"{self.preset} takes numbers, not tokens; use float32, or the preset transformer"
            )

    def need_axes(self, counts: tuple[int, ...], names: str) -> None:
        """Refuse an input with another number of axes."""
        if len(self.input.shape) not in counts:
            raise PresetError(
                ("input", "shape"), f"{self.preset} takes one sample of shape ({names}), got {list(self.input.shape)}"
            )
