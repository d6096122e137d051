"""The layout of samples: read from known signals, and proved from the graph where proof and experiment agree."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import output_of, replaying
from gradinspect.engine.per_sample.first_axis import on_first_axis
from gradinspect.engine.per_sample.layout_probe import probe, probe_layouts
from gradinspect.engine.per_sample.parameter_uses import ParameterSources, lowest, parameter_uses
from gradinspect.engine.per_sample.sample_layout import (
    MIXED,
    SILENT,
    UNPLACED,
    Layout,
    LayoutResult,
    chosen_samples,
    gather_evidence,
    read_layouts,
)
from gradinspect.engine.tracing.graph import read_graph
from tests.support.networks.sample_models import MODELS, ROWS, TRANSFORMER, Centred, build
from tests.support.networks.section_inputs import normal, section_input


def layout_of(signal: torch.Tensor, chosen: torch.Tensor) -> LayoutResult:
    return read_layouts([gather_evidence(signal, len(chosen))], chosen)[0]


CHOSEN = torch.tensor([True, False, False, True])


def test_samples_are_found_on_the_first_axis() -> None:
    signal = normal(4, 5, 3) * CHOSEN.view(4, 1, 1)
    assert layout_of(signal, CHOSEN) == Layout(1, 4, 15)


def test_samples_are_found_behind_time_even_with_as_many_steps_as_samples() -> None:
    signal = normal(4, 4, 3) * CHOSEN.view(1, 4, 1)
    assert layout_of(signal, CHOSEN) == Layout(4, 4, 3)


def test_samples_are_found_folded_into_rows_on_either_side_of_time() -> None:
    inside = (normal(4, 5, 3) * CHOSEN.view(4, 1, 1)).reshape(20, 3)
    outside = (normal(5, 4, 3) * CHOSEN.view(1, 4, 1)).reshape(20, 3)
    assert layout_of(inside, CHOSEN) == Layout(1, 4, 15)
    assert layout_of(outside, CHOSEN) == Layout(5, 4, 3)


def test_a_signal_on_every_sample_is_mixed() -> None:
    assert layout_of(normal(4, 5, 3), CHOSEN) == MIXED


def test_a_signal_of_zeros_is_silent() -> None:
    assert layout_of(torch.zeros(4, 5), CHOSEN) == SILENT


def test_a_shape_without_an_axis_for_the_samples_is_unplaced() -> None:
    assert layout_of(normal(5, 3), CHOSEN) == UNPLACED


def test_about_half_of_the_samples_are_chosen_and_never_all() -> None:
    for samples in range(2, 9):
        chosen = chosen_samples(samples, torch.Generator().manual_seed(samples))
        assert 1 <= int(chosen.sum()) == max(samples // 2, 1) < samples


def prepared(name: str) -> SectionInput:
    model, inputs = build(name)
    return section_input(model, inputs, normal(6, 7 if name == TRANSFORMER else 3, seed=9))


@pytest.mark.parametrize("name", MODELS)
def test_proof_and_experiments_agree_on_every_operation(name: str) -> None:
    s = prepared(name)
    with replaying(s):
        output = output_of(s)
        assert output.grad_fn is not None
        graph, sources = read_graph(output.grad_fn), ParameterSources(s.parameters)
        uses = [use for use in parameter_uses(graph, sources) if use.entry in s.reading.gradients]
        known = on_first_axis(graph, sources, 6, {x.data_ptr() for x in s.batch.inputs})
        full = probe(s, output, uses, lowest(uses, graph), 6)
        few = probe_layouts(s, output, uses, lowest(uses, graph), 6)
    for use in uses:
        result = full[use.node]
        if isinstance(result, Layout):
            assert few[use.node] == result, use.node.name()
        if known is not None and result != SILENT:
            expected = known[use.node]
            assert result == expected or (expected == UNPLACED and result == MIXED), use.node.name()


@pytest.mark.parametrize("name", ["mlp", "cnn with group norm", TRANSFORMER, "repeated layer", "long sequences"])
def test_plain_models_need_no_experiment(name: str) -> None:
    s = prepared(name)
    with replaying(s):
        output = output_of(s)
        assert output.grad_fn is not None
        inputs = {x.data_ptr() for x in s.batch.inputs}
        assert on_first_axis(read_graph(output.grad_fn), ParameterSources(s.parameters), 6, inputs) is not None


MIXERS: dict[str, nn.Module] = {
    "a mean over the samples": Centred(),
    "batch normalisation": nn.BatchNorm1d(6),
    "softmax over the samples": nn.Softmax(0),
    "a transpose": nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Flatten(0, 1), nn.Softmax(-2)),
}


@pytest.mark.parametrize("name", MIXERS)
def test_no_model_that_mixes_samples_passes_the_proof(name: str) -> None:
    # As many features as samples, so that shapes do not reveal the mixing.
    model = nn.Sequential(nn.Linear(4, 6), MIXERS[name], nn.Linear(6, 3)).double()
    s = section_input(model, ROWS, normal(6, 3, seed=9))
    with replaying(s):
        output = output_of(s)
        assert output.grad_fn is not None
        inputs = {x.data_ptr() for x in s.batch.inputs}
        assert on_first_axis(read_graph(output.grad_fn), ParameterSources(s.parameters), 6, inputs) is None
