"""Norms of per-sample gradients for a whole model: one forward and one backward pass.

Each operation's norms are computed in a hook, from its signal δ and its saved input, while both are in memory. No
weight gradient is computed: the batch's is known from the first pass.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.autograd.graph import Node

from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import only_tensor, output_of
from gradinspect.engine.network.batch import map_tensors
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.per_sample.first_axis import on_first_axis
from gradinspect.engine.per_sample.formulas import factor_of, has_formula, is_elementwise
from gradinspect.engine.per_sample.formulas.factors import Factor
from gradinspect.engine.per_sample.ghost_norms import is_row_product, row_product_squares, squared_norms
from gradinspect.engine.per_sample.layout_probe import probe_layouts
from gradinspect.engine.per_sample.parameter_uses import (
    ParameterSources,
    Use,
    are_disjoint,
    lowest,
    output_shape,
    parameter_uses,
)
from gradinspect.engine.per_sample.sample_layout import MIXED, SILENT, UNPLACED, Layout, LayoutResult
from gradinspect.engine.per_sample.signals import visit_signals
from gradinspect.engine.tracing.graph import read_graph
from gradinspect.engine.tracing.operator_names import NODE_LOOKUP

MIXES = "its layer's output feeds one that mixes samples (batch normalisation in training mode mixes them)"

# rms per element. Products of four values, summed over positions, stay inside float32: fourth powers of these leave
# room for 10⁶ terms, or for outliers, on both sides.
LOWEST_RMS, HIGHEST_RMS = 1e-8, 1e8
LOSS_TOLERANCE = 1e-3  # relative; rounding is far below, and a sum instead of a mean is off by the batch size


@dataclass
class SampleNorms:
    """Mean squared norms of the trained parameters that have a gradient.

    Attributes:
        mean_squares: mean over the samples of ‖g_n‖², g_n the gradient of sample n's loss.
        without_formula: parameters in operations that have no formula.
        missing: why a parameter has no per-sample gradient.
    """

    mean_squares: dict[ParameterEntry, float] = field(default_factory=dict)
    without_formula: list[ParameterEntry] = field(default_factory=list)
    missing: dict[ParameterEntry, str] = field(default_factory=dict)


def sample_norms(s: SectionInput, samples: int) -> SampleNorms | str:
    """Measure every parameter; return a reason where the loss is not a mean over samples.

    Args:
        s: the section's input, inside `replaying`.
        samples: size of the batch, at least 2.

    Cost: a forward and a backward pass without weight gradients, the norms, and for models outside the fast path of
    `first_axis` a forward and a backward pass over two samples.
    """
    with torch.enable_grad():
        output = only_tensor(output_of(s))
        point = output.detach().requires_grad_()
        (slope,) = torch.autograd.grad(s.loss_of(point), point)
        if not _is_mean_over_samples(s, output.detach(), slope, samples):
            return "the loss is not a mean over the samples"
        assert output.grad_fn is not None, "the first pass went backwards through it"
        graph, sources = read_graph(output.grad_fn), ParameterSources(s.parameters)
        uses = [use for use in parameter_uses(graph, sources) if use.entry in s.reading.gradients]
        stops = lowest(uses, graph)
        layouts = on_first_axis(graph, sources, samples, {x.data_ptr() for x in s.batch.inputs})
        if layouts is None:
            layouts = probe_layouts(s, output, uses, stops, samples)
        requested = [entry for entry in s.parameters if entry in s.reading.gradients]
        norms = _RunningNorms(_counted_once(uses, layouts), layouts, requested, widen=not _fits_float32(s))
        visit_signals(output, slope * samples, norms.nodes, stops, norms.take, retain_graph=False)
        return norms.result()


def _is_mean_over_samples(s: SectionInput, output: torch.Tensor, slope: torch.Tensor, samples: int) -> bool:
    """Check that the loss is a mean over samples (built-in losses are), on its slope for the first sample alone."""
    if s.settings.loss == "random_cotangent" or output.shape[0] < 2:
        return True
    alone = output[:1].clone().requires_grad_()
    target = map_tensors(s.target, lambda tensor: tensor[:1])
    try:
        (single,) = torch.autograd.grad(s.loss_between(alone, target), alone)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    difference = (single - samples * slope[:1]).norm()
    return bool(difference <= LOSS_TOLERANCE * (single.norm() + torch.finfo(single.dtype).tiny))


def _fits_float32(s: SectionInput) -> bool:
    """Check that squared norms stay in float32's range, judged by the magnitudes of the first pass."""
    sizes = [s.reading.signals[order] / math.sqrt(size) for order, size in s.reading.signal_sizes.items() if size]
    for call in s.reading.calls:
        sizes += [size for size in (call.input_rms, call.output.rms) if size is not None]
    return all(LOWEST_RMS < size < HIGHEST_RMS for size in sizes if size)


def _counted_once(uses: Sequence[Use], layouts: Mapping[Node, LayoutResult]) -> list[Use]:
    """Keep one of a lookup and the operation behind it: the one whose output has a sample axis."""
    without_axis = {
        use.node for use in uses if use.node.name() == NODE_LOOKUP and layouts.get(use.node) in (MIXED, UNPLACED)
    }
    return [use for use in uses if (use.lookup is None and use.node not in without_axis) or use.lookup in without_axis]


class _RunningNorms:
    """Squared per-sample norms, collected node by node during one backward pass.

    A parameter that is used several times is squared when the last of its uses has its signal; until then its factors
    are held.

    Args:
        uses: the uses to measure.
        layouts: where each operation has its samples.
        requested: the parameters that the result reports on.
        widen: compute in float64.
    """

    def __init__(
        self,
        uses: Sequence[Use],
        layouts: Mapping[Node, LayoutResult],
        requested: Sequence[ParameterEntry],
        *,
        widen: bool,
    ) -> None:
        self._layouts, self._requested, self._widen = layouts, requested, widen
        self._uses_at: dict[Node, list[Use]] = {}
        uses_of: dict[ParameterEntry, list[Use]] = {}
        for use in uses:
            self._uses_at.setdefault(use.node, []).append(use)
            uses_of.setdefault(use.entry, []).append(use)
        self._mixed = {use.entry for use in uses if layouts.get(use.node) == MIXED and _meets_data(use)}
        self._without_formula = {entry for entry in requested if not _are_separable(uses_of.get(entry, []))}
        self._used_once = {entry for entry, own in uses_of.items() if len(own) == 1}
        self._remaining_uses = Counter(use.entry for use in uses)
        self._factors: dict[ParameterEntry, list[tuple[Use, Factor]]] = {}
        self._squares: dict[ParameterEntry, torch.Tensor] = {}

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes whose signals are needed."""
        return list(self._uses_at)

    def take(self, node: Node, signal: torch.Tensor) -> None:
        """Add what the parameters at one node get from its signal δ."""
        signal = signal.double() if self._widen else signal
        uses = self._uses_at.get(node, [])
        layout = self._layouts.get(node, SILENT)
        if is_row_product(uses, signal, layout) and all(use.entry in self._used_once for use in uses):
            squares = row_product_squares(uses, signal)
            self._squares.update({use.entry: squares[use] for use in uses if self._is_measurable(use.entry)})
            return
        for use in uses:
            self._remaining_uses[use.entry] -= 1
            if not self._is_measurable(use.entry):
                continue
            factor = factor_of(use, signal, layout) if isinstance(layout, Layout) else None
            if factor is not None:
                self._factors.setdefault(use.entry, []).append((use, factor))
            elif layout != SILENT or bool((signal != 0).any()):
                self._without_formula.add(use.entry)
            if self._remaining_uses[use.entry] == 0:
                self._settle(use.entry)

    def result(self) -> SampleNorms:
        """Average over the samples, and name what could not be measured. One device transfer."""
        for entry in list(self._factors):  # some of their uses got no signal, and add nothing
            self._settle(entry)
        squares = self._squares
        means = torch.stack([rows.mean() for rows in squares.values()]).tolist() if squares else []
        norms = SampleNorms(dict(zip(squares, means, strict=True)))
        for entry in self._requested:
            if entry in self._mixed or (self._mixed and entry not in squares):
                norms.missing[entry] = MIXES
            elif entry not in squares:
                norms.without_formula.append(entry)
        return norms

    def _is_measurable(self, entry: ParameterEntry) -> bool:
        return entry not in self._without_formula and entry not in self._mixed

    def _settle(self, entry: ParameterEntry) -> None:
        total = _sum_over_parts(self._factors.pop(entry, []))
        if total is None:
            self._without_formula.add(entry)
        elif entry not in self._without_formula:
            self._squares[entry] = total


def _meets_data(use: Use) -> bool:
    """Check that the operation involves data; a weight computed from parameters alone has no sample axis."""
    computes_weight = is_elementwise(use) and math.prod(use.shape) == math.prod(output_shape(use.node))
    return has_formula(use) and not computes_weight


def _are_separable(uses: Sequence[Use]) -> bool:
    """Check that gradients add up within each part of the parameter, and squared norms over the parts."""
    if not uses or not all(map(has_formula, uses)) or not are_disjoint(use.part for use in uses):
        return False
    for part in {use.part for use in uses}:
        # A table's rows are the outputs of a transposed weight, so a tied head has the opposite orientation.
        orientations = {use.transposed != _is_table(use) for use in uses if use.part == part}
        if len(uses) > 1 and len(orientations) > 1:
            return False
    return True


def _is_table(use: Use) -> bool:
    return use.node.name() == NODE_LOOKUP or use.lookup is not None


def _sum_over_parts(pairs: Sequence[tuple[Use, Factor]]) -> torch.Tensor | None:
    """Return ‖g_n‖² over all parts of one parameter, (samples,) float64; None where factors cannot be combined."""
    total: torch.Tensor | None = None
    for part in dict.fromkeys(use.part for use, _ in pairs):
        squares = squared_norms([factor for use, factor in pairs if use.part == part])
        if squares is None:
            return None
        total = squares if total is None else total + squares
    return total if total is not None else torch.zeros(1, dtype=torch.float64)
