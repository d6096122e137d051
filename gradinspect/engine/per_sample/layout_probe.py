"""Sample layouts by experiment: one backward pass whose cotangent is zero for half of the samples.

`sample_layout` says how the signals are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.autograd.graph import Node

from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import only_tensor, run_model
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.reproducible import generator, seeded
from gradinspect.engine.per_sample.parameter_uses import ParameterSources, Use, lowest, output_shape, parameter_uses
from gradinspect.engine.per_sample.sample_layout import (
    SILENT,
    Layout,
    LayoutEvidence,
    LayoutResult,
    chosen_samples,
    gather_evidence,
    read_layouts,
)
from gradinspect.engine.per_sample.signals import visit_signals
from gradinspect.engine.tracing.graph import read_graph

FEW = 2  # samples of the small probe: one that is touched and one that is not


def probe_layouts(
    s: SectionInput, output: torch.Tensor, uses: Sequence[Use], stops: Sequence[Node], samples: int
) -> dict[Node, LayoutResult]:
    """Find where each operation has its samples, on `FEW` samples where that settles it for all.

    Args:
        s: the section's input, inside `replaying`.
        output: the model's output for the whole batch, with its graph.
        uses: parameter uses in that graph.
        stops: the lowest of their nodes.
        samples: size of the batch.

    Cost: a forward and a backward pass over `FEW` samples, else a backward pass over the batch.
    """
    if samples > FEW:
        layouts = _probe_few(s, uses, samples)
        if layouts is not None:
            return layouts
    return probe(s, output, uses, stops, samples)


def probe(
    s: SectionInput, output: torch.Tensor, uses: Sequence[Use], stops: Sequence[Node], samples: int
) -> dict[Node, LayoutResult]:
    """Find where each operation has its samples, on all samples of `output`."""
    draws = generator(s.seed, "sample layout")
    chosen = chosen_samples(samples, draws)
    cotangent = torch.randn(output.shape, generator=draws, dtype=torch.float64).to(output)
    cotangent[~chosen.to(output.device)] = 0
    evidence: dict[Node, LayoutEvidence | None] = {}

    def note(node: Node, signal: torch.Tensor) -> None:
        evidence[node] = gather_evidence(signal, samples)

    visit_signals(output, cotangent, dict.fromkeys(use.node for use in uses), stops, note, retain_graph=True)
    return dict(zip(evidence, read_layouts(list(evidence.values()), chosen), strict=True))


def _probe_few(s: SectionInput, uses: Sequence[Use], samples: int) -> dict[Node, LayoutResult] | None:
    """Probe `FEW` samples and scale the sample axis up to the batch.

    None where the model does not take so few, or runs other operations on them.
    """
    try:
        with seeded(s.seed, s.device):
            output = only_tensor(run_model(s, [tensor[:FEW] for tensor in s.batch.inputs]))
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
    layouts = probe(s, output, few, lowest(few, graph), FEW)
    scaled: dict[Node, LayoutResult] = {}
    for small, full in zip(few, uses, strict=True):
        layout = layouts.get(small.node, SILENT)
        if isinstance(layout, Layout):
            layout = Layout(layout.outer, samples, layout.inner)
            if layout.outer * samples * layout.inner != math.prod(output_shape(full.node)):
                return None
        scaled[full.node] = layout
    return scaled


def _role(use: Use) -> tuple[object, ...]:
    """Return what identifies a use in graphs of different batch sizes."""
    shape = use.shape if use.lookup is None else None  # the shape of a lookup's output may contain the batch size
    return use.entry, use.node.name(), use.slot, use.part, shape, use.transposed
