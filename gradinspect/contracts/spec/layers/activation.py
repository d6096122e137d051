"""Element-wise functions, and those that normalise or gate along one axis. Only PReLU has parameters.

Classes without arguments other than `inplace` are made from `contracts/nonlinearities`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model

from gradinspect.contracts.document import Finite
from gradinspect.contracts.nonlinearities import NONLINEARITIES, TorchLayer
from gradinspect.contracts.spec.layers.layer import (
    AxisIndex,
    Layer,
    MisfitError,
    Positive,
    Resolved,
    Shape,
    Size,
    axis,
    need_axes,
)


class Elementwise(Layer):
    """A function of each element alone."""

    def resolve(self, shape: Shape) -> Resolved:
        return Resolved(shape)


class _InPlace(Elementwise):
    inplace: bool = False


def _without_arguments(layer: TorchLayer) -> type[Layer]:
    """Make the spec layer of a class of `torch.nn` that takes no argument but `inplace`."""
    formula = f": {layer.formula}" if layer.formula else ""
    only: Any = Literal[layer.name]  # Any: a type made at run time
    return create_model(
        layer.name,
        __base__=_InPlace if layer.has_inplace else Elementwise,
        __module__=__name__,
        __doc__=f"`torch.nn.{layer.name}`{formula}.",
        type=(only, ...),
    )


WITHOUT_ARGUMENTS = tuple(
    _without_arguments(layer) for record in NONLINEARITIES for layer in record.layers if not layer.has_written_spec
)


class Identity(Elementwise):
    """`torch.nn.Identity`."""

    takes: ClassVar[Literal["floats", "tokens", "anything"]] = "anything"
    type: Literal["Identity"]


class LeakyReLU(_InPlace):
    """`torch.nn.LeakyReLU`."""

    type: Literal["LeakyReLU"]
    negative_slope: Finite = 0.01


class PReLU(Elementwise):
    """`torch.nn.PReLU`: a learned slope, one for all channels or one each. `init` is torch's own argument, a number."""

    inherits_init: ClassVar[bool] = False

    type: Literal["PReLU"]
    num_parameters: Size = 1
    init: Finite = Field(default=0.25, description="Where the slope starts.")  # type: ignore[assignment]  # torch's own argument has the name

    def resolve(self, shape: Shape) -> Resolved:
        channels = shape[0] if shape else 1
        if self.num_parameters not in (1, channels):
            raise MisfitError(f"expects {self.num_parameters} channels", field="num_parameters", gets=channels)
        return Resolved(shape, {"weight": (self.num_parameters,)})

    def arguments(self, inferred: Mapping[str, object]) -> dict[str, object]:
        return super().arguments(inferred) | {"init": self.init}


class RReLU(_InPlace):
    """`torch.nn.RReLU`: a random negative slope in training."""

    type: Literal["RReLU"]
    lower: Finite = 1 / 8
    upper: Finite = 1 / 3

    def resolve(self, shape: Shape) -> Resolved:
        if self.lower > self.upper:
            raise self.refuse("lower", "it must not be larger than upper")
        return super().resolve(shape)


class ELU(_InPlace):
    """`torch.nn.ELU`."""

    type: Literal["ELU"]
    alpha: Finite = 1.0


class CELU(_InPlace):
    """`torch.nn.CELU`."""

    type: Literal["CELU"]
    alpha: Finite = 1.0

    def resolve(self, shape: Shape) -> Resolved:
        if self.alpha == 0:
            raise self.refuse("alpha", "torch divides by it, so it cannot be 0")
        return super().resolve(shape)


class GELU(Elementwise):
    """`torch.nn.GELU`."""

    type: Literal["GELU"]
    approximate: Literal["none", "tanh"] = "none"


class Softplus(Elementwise):
    """`torch.nn.Softplus`."""

    type: Literal["Softplus"]
    beta: Positive = 1.0
    threshold: Finite = 20.0


class Hardtanh(_InPlace):
    """`torch.nn.Hardtanh`."""

    type: Literal["Hardtanh"]
    min_val: Finite = -1.0
    max_val: Finite = 1.0

    def resolve(self, shape: Shape) -> Resolved:
        if not self.min_val < self.max_val:
            raise self.refuse("min_val", "it must be smaller than max_val")
        return super().resolve(shape)


class Hardshrink(Elementwise):
    """`torch.nn.Hardshrink`."""

    type: Literal["Hardshrink"]
    lambd: Annotated[Finite, Field(ge=0)] = 0.5


class Softshrink(Elementwise):
    """`torch.nn.Softshrink`."""

    type: Literal["Softshrink"]
    lambd: Annotated[Finite, Field(ge=0)] = 0.5


class Threshold(_InPlace):
    """`torch.nn.Threshold`."""

    type: Literal["Threshold"]
    threshold: Finite
    value: Finite


class _AlongAxis(Layer):
    dim: AxisIndex = Field(description="Required: torch's implicit choice is deprecated. Axis 0 is the batch.")

    def resolve(self, shape: Shape) -> Resolved:
        axis(self.dim, shape, self)
        return Resolved(shape)


class Softmax(_AlongAxis):
    """`torch.nn.Softmax`."""

    type: Literal["Softmax"]


class LogSoftmax(_AlongAxis):
    """`torch.nn.LogSoftmax`."""

    type: Literal["LogSoftmax"]


class Softmin(_AlongAxis):
    """`torch.nn.Softmin`."""

    type: Literal["Softmin"]


class Softmax2d(Layer):
    """`torch.nn.Softmax2d`: over the channels of each position."""

    type: Literal["Softmax2d"]

    def resolve(self, shape: Shape) -> Resolved:
        need_axes(shape, 3, "channels, height, width", exact=True)
        return Resolved(shape)


class GLU(Layer):
    """`torch.nn.GLU`: half of an axis gates the other half."""

    type: Literal["GLU"]
    dim: AxisIndex = -1

    def resolve(self, shape: Shape) -> Resolved:
        index = axis(self.dim, shape, self)
        if shape[index] % 2:
            raise MisfitError("expects an even size on the gated axis", field="dim", gets=shape[index])
        return Resolved((*shape[:index], shape[index] // 2, *shape[index + 1 :]))
