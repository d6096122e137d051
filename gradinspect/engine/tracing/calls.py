"""A layer call and the nonlinearity behind it, as the forward pass showed them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.autograd.graph import Node

from gradinspect.engine.arrays.statistics import Amplitude
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.tracing.activations import Activation, SlopeReading
from gradinspect.engine.tracing.units import UnitReading

UNREAD = Amplitude(0, math.nan, math.nan)
NO_SLOPE = SlopeReading(math.nan, None)


@dataclass(eq=False, slots=True)
class ActivationCall:
    """The nonlinearity that follows a layer call.

    Attributes:
        operation: ATen name, or the names of several element-wise operations that make it up (`sigmoid-mul`).
        activation: what is known of it; None for a nonlinearity of several operations, or of its author's own.
        arguments, keywords: the scalars of the ATen call.
        slope: of φ′; read from the gradients on both sides where `activation` is None.
    """

    operation: str
    activation: Activation | None
    arguments: tuple[Any, ...]  # Any: scalars of the ATen call; its tensors are left out
    keywords: Mapping[str, Any]
    node: Node | None
    output: Amplitude = UNREAD
    slope: SlopeReading = NO_SLOPE
    units: UnitReading | None = None
    largest_slope: float | None = None
    is_elementwise: bool = True


@dataclass(eq=False, slots=True)
class LayerCall:
    """One operation in which parameters met data.

    Attributes:
        order: place among the layer calls of the forward pass.
        operation: ATen name of the operation (`addmm`, `convolution`, `native_layer_norm`).
        entries: the parameters that entered.
        nodes: autograd nodes of the call, the last one gives its output; empty below the first trained parameter.
        output_shape: as the module gives it, reshapes included.
        arguments: positional arguments of the ATen call, its tensors left out.
        input_shape: of the data that entered; None where there was none (a table that is looked up).
        source: what the data that entered was when it was last read: the output of another call, or of its
            nonlinearity; None where it was read for this call alone.
        input_norm, input_numel: of the data that entered, where `source` is None; NaN for integers.
        output: the values before any nonlinearity.
        units: dead units and similarity of the output where no nonlinearity follows.
        applied: the operations that make up the call: its own, and those of a bias or a gain after it.
        sampled: whether slopes, or similarities, were read from a sample of the elements.
    """

    order: int
    operation: str
    entries: list[ParameterEntry]
    output_shape: tuple[int, ...]
    arguments: tuple[Any, ...] = ()  # Any: as ATen has them
    input_shape: tuple[int, ...] | None = None
    nodes: list[Node] = field(default_factory=list)
    source: LayerCall | ActivationCall | None = None
    input_norm: float = math.nan
    input_numel: int = 0
    output_numel: int = 0
    output: Amplitude = UNREAD
    units: UnitReading | None = None
    activation: ActivationCall | None = None
    sampled: bool = False
    applied: tuple[str, ...] = ()

    @property
    def node(self) -> Node | None:
        """The autograd node whose gradient input is the backward signal δ of this call."""
        return self.nodes[-1] if self.nodes else None

    @property
    def input_rms(self) -> float | None:
        """Root mean square of the data that entered; None for integers and where nothing was there."""
        if self.source is not None:
            return self.source.output.rms
        if not self.input_numel or math.isnan(self.input_norm):
            return None
        return self.input_norm / math.sqrt(self.input_numel)
