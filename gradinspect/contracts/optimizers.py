"""The optimizers that a request can declare, one document each: their settings and their source code.

Defaults are torch's own, but for the rate of SGD. The steps themselves are in `engine/network/optimizers`, by `type`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gradinspect.contracts.document import Document, Finite

Positive = Annotated[Finite, Field(gt=0)]
UnitInterval = Annotated[Finite, Field(ge=0, lt=1)]


class _Optimizer(Document):
    """Common base of the optimizers.

    Attributes:
        torch_name: the class in `torch.optim`.
        is_adaptive: each element's step is divided by the size of its gradients.
        probe_centre: the base rate at which a search for the best rate begins.
    """

    torch_name: ClassVar[str]
    is_adaptive: ClassVar[bool] = False
    probe_centre: ClassVar[float]

    @property
    def memory(self) -> float:
        """Return the share of the last step that the next one repeats, in [0, 1)."""
        return 0.0

    def source(self, parameters: str, *, lr: str) -> str:
        """Write the call that makes the optimizer, with every setting that differs from torch's default.

        >>> Sgd(type="sgd", momentum=0.9).source("model.parameters()", lr="0.05")
        'torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)'

        Args:
            parameters: source of the parameters or groups.
            lr: source of the base rate.
        """
        settings = {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name not in ("type", "lr") and getattr(self, name) != field.default
        }
        arguments = "".join(f", {name}={value!r}" for name, value in settings.items())
        return f"torch.optim.{self.torch_name}({parameters}, lr={lr}{arguments})"


class Sgd(_Optimizer):
    """`torch.optim.SGD`."""

    torch_name: ClassVar[str] = "SGD"
    probe_centre: ClassVar[float] = 0.1

    type: Literal["sgd"]
    lr: Positive = 0.1
    momentum: UnitInterval = 0.0
    weight_decay: Annotated[Finite, Field(ge=0)] = 0.0
    nesterov: bool = False

    @property
    def memory(self) -> float:
        """Return the momentum."""
        return self.momentum


class _AdamLike(_Optimizer):
    is_adaptive: ClassVar[bool] = True
    probe_centre: ClassVar[float] = 3e-3  # chosen: the search covers 3e-6 … 0.1, around torch's default of 1e-3

    lr: Positive = 1e-3
    betas: tuple[UnitInterval, UnitInterval] = (0.9, 0.999)
    eps: Positive = 1e-8


class Adam(_AdamLike):
    """`torch.optim.Adam`: weight decay is added to the gradient."""

    torch_name: ClassVar[str] = "Adam"

    type: Literal["adam"]
    weight_decay: Annotated[Finite, Field(ge=0)] | None = Field(default=None, description="Left out: torch's 0.")


class AdamW(_AdamLike):
    """`torch.optim.AdamW`: weight decay is decoupled from the gradient."""

    torch_name: ClassVar[str] = "AdamW"

    type: Literal["adamw"]
    weight_decay: Annotated[Finite, Field(ge=0)] | None = Field(default=None, description="Left out: torch's 0.01.")


Optimizer = Annotated[Sgd | Adam | AdamW, Field(discriminator="type")]
ASSUMED = Sgd(type="sgd")  # where a request declares no optimizer
