"""A layer call and the nonlinearity behind it, as recorded in the forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.autograd.graph import Node

from gradinspect.engine.arrays.statistics import Amplitude
from gradinspect.engine.arrays.units import UnitReading
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.tracing.activations import Activation, SlopeReading

UNREAD = Amplitude(0, math.nan, math.nan)
NO_SLOPE = SlopeReading(math.nan, None)


@dataclass(eq=False, slots=True)
class ActivationCall:
    """The nonlinearity that follows a layer call.

    Attributes:
        operation: ATen name, or the names of the element-wise operations that make it up (`sigmoid-mul`).
        activation: the known function; None for one of several operations and for a custom autograd.Function.
        arguments, keywords: scalars of the ATen call; tensors are left out.
        slope: of φ′; computed from the gradients on both sides where `activation` is None.
    """

    operation: str
    activation: Activation | None
    arguments: tuple[Any, ...]  # Any: scalars of an ATen call
    keywords: Mapping[str, Any]
    node: Node | None
    output: Amplitude = UNREAD
    slope: SlopeReading = NO_SLOPE
    units: UnitReading | None = None
    largest_slope: float | None = None
    is_elementwise: bool = True


@dataclass(eq=False, slots=True)
class LayerCall:
    """One operation in which parameters meet data.

    Attributes:
        order: index among the layer calls of the forward pass.
        operation: ATen name (`addmm`, `convolution`, `native_layer_norm`).
        entries: the parameters that enter.
        output_shape: as the module returns it, reshapes included.
        arguments: positional arguments of the ATen call; tensors are left out.
        input_shape: of the input data; None where there is none (a table lookup).
        nodes: autograd nodes of the call, the last one returns its output; empty below the first trained parameter.
        source: the call or nonlinearity whose output is the input data; None where the input was read separately.
        input_norm: l2 norm of the input data where `source` is None; NaN for integers.
        input_numel: elements of the input data where `source` is None.
        output: amplitude before any nonlinearity.
        units: dead units and similarity of the output where no nonlinearity follows.
        joined: nonlinearities that take the output together with others, or a part of it.
        sampled: whether slopes or similarities were read from a sample of the elements.
        has_met_data: whether the inputs determine what the parameters are applied to; else it is a constant.
        has_computed_weight: whether a parameter enters as a function of it (weight norm, a mask, a low-rank product).
        applied: the operations that make up the call: the first one, and those of a bias or a gain after it.
    """

    order: int
    operation: str
    entries: list[ParameterEntry]
    output_shape: tuple[int, ...]
    arguments: tuple[Any, ...] = ()
    input_shape: tuple[int, ...] | None = None
    nodes: list[Node] = field(default_factory=list)
    source: LayerCall | ActivationCall | None = None
    input_norm: float = math.nan
    input_numel: int = 0
    output_numel: int = 0
    output: Amplitude = UNREAD
    units: UnitReading | None = None
    activation: ActivationCall | None = None
    joined: list[ActivationCall] = field(default_factory=list)
    sampled: bool = False
    has_met_data: bool = False
    has_computed_weight: bool = False
    applied: tuple[str, ...] = ()

    @property
    def node(self) -> Node | None:
        """Autograd node whose gradient input is the backward signal δ of this call."""
        return self.nodes[-1] if self.nodes else None

    @property
    def input_rms(self) -> float | None:
        """Root mean square of the input data; None for integers and without input."""
        if self.source is not None:
            return self.source.output.rms
        if not self.input_numel or math.isnan(self.input_norm):
            return None
        return self.input_norm / math.sqrt(self.input_numel)
