"""Norms of per-sample gradients for a whole model: one forward and one backward pass, and a probe on a few samples.

The probe's backward pass carries a cotangent that is zero for half of its samples and shows where each operation keeps
them (`sample_layout`); the batch's carries the loss, and each operation's norms are taken from its signal and its
saved input while both are there. No weight gradient is computed: the batch's is known from the first pass.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch.autograd.graph import GradientEdge, Node

from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.memory import out_of_memory
from gradinspect.engine.first_order.replay import output_of, run_model
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.network.reproducible import generator, seeded
from gradinspect.engine.per_sample.first_axis import on_first_axis
from gradinspect.engine.per_sample.ghost_norms import is_row_product, row_product_squares, squared_norms
from gradinspect.engine.per_sample.parameter_uses import (
    LOOKUP,
    ParameterSources,
    Use,
    are_disjoint,
    lowest,
    output_shape,
    parameter_uses,
)
from gradinspect.engine.per_sample.sample_factors import ELEMENTWISE, Factor, factor_of, has_formula
from gradinspect.engine.per_sample.sample_layout import (
    MIXED,
    SILENT,
    UNPLACED,
    Evidence,
    Layout,
    Verdict,
    chosen_samples,
    gather_evidence,
    read_layouts,
)
from gradinspect.engine.tracing.graph import read_graph

MIXES = "its layer's output feeds one that mixes samples (batch normalisation in training mode mixes them)"
SignalHook = Callable[[Node, torch.Tensor], None]


@dataclass
class SampleNorms:
    """What was found for each trained parameter that has a gradient.

    Attributes:
        mean_squares: mean over the samples of ‖g_n‖², g_n the gradient of sample n's loss.
        without_formula: parameters in operations that have none here.
        missing: why a parameter has no per-sample gradient.
    """

    mean_squares: dict[ParameterEntry, float] = field(default_factory=dict)
    without_formula: list[ParameterEntry] = field(default_factory=list)
    missing: dict[ParameterEntry, str] = field(default_factory=dict)


def sample_norms(s: SectionInput, samples: int) -> SampleNorms | str:
    """Measure every parameter; a sentence where the loss does not belong to samples one by one."""
    with torch.enable_grad():
        output = output_of(s)
        point = output.detach().requires_grad_()
        (slope,) = torch.autograd.grad(s.loss_of(point), point)
        if not _adds_up(s, output.detach(), slope, samples):
            return "the loss is not a mean over the samples"
        assert output.grad_fn is not None, "the first pass went backwards through it"
        wanted = [entry for entry in s.parameters if entry in s.reading.gradients]
        graph, sources = read_graph(output.grad_fn), ParameterSources(s.parameters)
        uses = [use for use in parameter_uses(graph, sources) if use.entry in s.reading.gradients]
        stops = lowest(uses, graph)
        known = on_first_axis(graph, sources, samples, {x.data_ptr() for x in s.batch.inputs})
        verdicts = known if known is not None else _layouts(s, output, uses, stops, samples)
        uses = _telling(uses, verdicts)
        return _measure(output, slope * samples, uses, stops, verdicts, wanted, wide=not _products_fit(s))


def _products_fit(s: SectionInput) -> bool:
    """Whether products of four values, summed over positions, stay inside float32, judged by the first pass."""
    sizes = [s.reading.signals[order] / math.sqrt(size) for order, size in s.reading.signal_sizes.items() if size]
    for call in s.reading.calls:
        sizes += [size for size in (call.input_rms, call.output.rms) if size is not None]
    return all(_LOW < size < _HIGH for size in sizes if size)


_LOW, _HIGH = 1e-8, 1e8  # rms per element; their fourth powers leave room for 10⁶ terms, or for spread, on both sides


def _adds_up(s: SectionInput, output: torch.Tensor, slope: torch.Tensor, samples: int) -> bool:
    """Whether the loss of one sample pulls on its output as the whole batch's mean does; losses by name always do."""
    if s.settings.loss == "random_cotangent" or output.shape[0] < 2:
        return True
    alone = output[:1].clone().requires_grad_()
    target = s.target[:1] if s.target is not None else None
    try:
        (single,) = torch.autograd.grad(s.loss_between(alone, target), alone)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    difference = (single - samples * slope[:1]).norm()
    return bool(difference <= _SAME * (single.norm() + torch.finfo(single.dtype).tiny))


_SAME = 1e-3  # relative; the two are equal up to rounding, and a sum instead of a mean is off by the batch size


def _layouts(
    s: SectionInput, output: torch.Tensor, uses: Sequence[Use], stops: Sequence[Node], samples: int
) -> dict[Node, Verdict]:
    """Where each operation keeps its samples: found on a few of them where that says it for all."""
    if samples > FEW:
        small = _layouts_of_few(s, uses, samples)
        if small is not None:
            return small
    return _probe(s, output, uses, stops, samples)


FEW = 2  # samples of the probe: one that is touched and one that is not


def _layouts_of_few(s: SectionInput, uses: Sequence[Use], samples: int) -> dict[Node, Verdict] | None:
    """The arrangement seen on `FEW` samples, with the axis that counts them grown to all.

    None where the model does not take so few, or runs other operations on them.
    """
    try:
        with seeded(s.seed, s.device):
            output = run_model(s, [tensor[:FEW] for tensor in s.batch.inputs])
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        if out_of_memory(error):
            raise
        return None
    if output.grad_fn is None or output.shape[0] != FEW:
        return None
    graph = read_graph(output.grad_fn)
    few = [use for use in parameter_uses(graph, ParameterSources(s.parameters)) if use.entry in s.reading.gradients]
    if [_role(use) for use in few] != [_role(use) for use in uses]:
        return None
    verdicts = _probe(s, output, few, lowest(few, graph), FEW)
    grown: dict[Node, Verdict] = {}
    for small, full in zip(few, uses, strict=True):
        verdict = verdicts.get(small.node, SILENT)
        if isinstance(verdict, Layout):
            verdict = Layout(verdict.outer, samples, verdict.inner)
            if verdict.outer * samples * verdict.inner != math.prod(output_shape(full.node)):
                return None
        grown[full.node] = verdict
    return grown


def _role(use: Use) -> tuple[object, ...]:
    shape = use.shape if use.lookup is None else None  # what was looked up may have the samples in its shape
    return use.entry, use.node.name(), use.slot, use.part, shape, use.turned


def _probe(
    s: SectionInput, output: torch.Tensor, uses: Sequence[Use], stops: Sequence[Node], samples: int
) -> dict[Node, Verdict]:
    draws = generator(s.seed, "sample layout")
    chosen = chosen_samples(samples, draws)
    cotangent = torch.randn(output.shape, generator=draws, dtype=torch.float64).to(output)
    cotangent[~chosen.to(output.device)] = 0
    evidence: dict[Node, Evidence | None] = {}

    def note(node: Node, signal: torch.Tensor) -> None:
        evidence[node] = gather_evidence(signal, samples)

    _backward(output, cotangent, dict.fromkeys(use.node for use in uses), stops, note, retain=True)
    return dict(zip(evidence, read_layouts(list(evidence.values()), chosen), strict=True))


def _telling(uses: Sequence[Use], verdicts: Mapping[Node, Verdict]) -> list[Use]:
    """Of a lookup and the operation behind it, the one that can tell samples apart."""
    stretched = {use.node for use in uses if use.node.name() == LOOKUP and verdicts.get(use.node) in (MIXED, UNPLACED)}
    return [use for use in uses if (use.lookup is None and use.node not in stretched) or use.lookup in stretched]


def _measure(
    output: torch.Tensor,
    slope: torch.Tensor,
    uses: Sequence[Use],
    stops: Sequence[Node],
    verdicts: Mapping[Node, Verdict],
    wanted: Sequence[ParameterEntry],
    *,
    wide: bool,
) -> SampleNorms:
    of_entry: dict[ParameterEntry, list[Use]] = {}
    at_node: dict[Node, list[Use]] = {}
    for use in uses:
        of_entry.setdefault(use.entry, []).append(use)
        at_node.setdefault(use.node, []).append(use)
    mixing = {use.entry for use in uses if verdicts.get(use.node) == MIXED and _meets_data(use)}
    unknown = {entry for entry in wanted if not _separable(of_entry.get(entry, []))}
    factors: dict[ParameterEntry, list[tuple[Use, Factor]]] = {}
    squares: dict[ParameterEntry, torch.Tensor] = {}
    ahead = Counter(use.entry for use in uses)

    def take(node: Node, signal: torch.Tensor) -> None:
        signal = signal.double() if wide else signal
        uses = at_node.get(node, [])
        if is_row_product(uses, signal, verdicts.get(node)) and all(len(of_entry[use.entry]) == 1 for use in uses):
            found = row_product_squares(uses, signal)
            squares.update({use.entry: found[use] for use in uses if use.entry not in unknown | mixing})
            return
        for use in uses:
            ahead[use.entry] -= 1
            if use.entry in unknown or use.entry in mixing:
                continue
            layout = verdicts.get(node, SILENT)
            factor = factor_of(use, signal, layout) if isinstance(layout, Layout) else None
            if factor is not None:
                factors.setdefault(use.entry, []).append((use, factor))
            elif layout != SILENT or bool((signal != 0).any()):
                unknown.add(use.entry)
            if ahead[use.entry] == 0:
                settle(use.entry)

    def settle(entry: ParameterEntry) -> None:
        total = _sum_over_parts(factors.pop(entry, []))
        if total is None:
            unknown.add(entry)
        elif entry not in unknown:
            squares[entry] = total

    _backward(output, slope, at_node, stops, take, retain=False)
    for entry in list(factors):  # some of their uses got no signal, and add nothing
        settle(entry)
    means = torch.stack([squares[entry].mean() for entry in squares]).tolist() if squares else []  # the one transfer
    found = SampleNorms(dict(zip(squares, means, strict=True)))
    for entry in wanted:
        if entry in mixing or (mixing and entry not in squares):
            found.missing[entry] = MIXES
        elif entry not in squares:
            found.without_formula.append(entry)
    return found


def _meets_data(use: Use) -> bool:
    """Whether samples can be told apart at this operation: not where a weight is computed from parameters alone."""
    elementwise = use.node.name() in ELEMENTWISE
    return has_formula(use) and not (elementwise and math.prod(use.shape) == math.prod(output_shape(use.node)))


def _separable(uses: Sequence[Use]) -> bool:
    """Whether the uses' gradients can be added where they share a part, and their squares where they do not."""
    if not uses or not all(map(has_formula, uses)) or not are_disjoint(use.part for use in uses):
        return False
    for part in {use.part for use in uses}:
        # A table's rows are the outputs of a transposed weight: a tied head counts as turned the other way round.
        shapes = {
            (use.turned == (use.node.name() != LOOKUP and use.lookup is None)) for use in uses if use.part == part
        }
        if len(uses) > 1 and len(shapes) > 1:
            return False
    return True


def _sum_over_parts(pairs: Sequence[tuple[Use, Factor]]) -> torch.Tensor | None:
    total: torch.Tensor | None = None
    for part in dict.fromkeys(use.part for use, _ in pairs):
        squares = squared_norms([factor for use, factor in pairs if use.part == part])
        if squares is None:
            return None
        total = squares if total is None else total + squares
    return total if total is not None else torch.zeros(1, dtype=torch.float64)


def _backward(
    output: torch.Tensor,
    cotangent: torch.Tensor,
    nodes: Iterable[Node],
    stops: Sequence[Node],
    hook: SignalHook,
    *,
    retain: bool,
) -> None:
    """Go backwards no further than the lowest uses, and show each use's node its signal once."""
    lowest_nodes = set(stops)
    handles = [node.register_prehook(partial(_first, hook, node)) for node in nodes if node not in lowest_nodes]
    try:
        # A scalar needs no `grad_outputs`, whose shape check makes torch import a computer algebra system.
        pulled = (output * cotangent).sum()
        signals = torch.autograd.grad(
            pulled, [GradientEdge(node, 0) for node in stops], retain_graph=retain, allow_unused=True
        )
    finally:
        for handle in handles:
            handle.remove()
    for node, signal in zip(stops, signals, strict=True):
        _first(hook, node, (signal,))


def _first(hook: SignalHook, node: Node, gradients: Sequence[torch.Tensor | None]) -> None:
    if gradients[0] is not None:
        with torch.no_grad():
            hook(node, gradients[0])
