"""Mean squared norms of per-sample gradients: by the engine, and by a loop over the losses of single samples."""

from __future__ import annotations

import torch

from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import replaying
from gradinspect.engine.network.outputs import first_tensor
from gradinspect.engine.per_sample.sample_gradients import sample_gradient_moments
from gradinspect.engine.per_sample.sample_norms import sample_norms


def loop(s: SectionInput) -> dict[str, float]:
    """Compute mean ‖g_n‖² of each parameter by a loop over the losses of single samples."""
    totals: dict[str, float] = {}
    trained = {entry.name: entry.tensor for entry in s.parameters if entry.requires_grad}
    samples = s.batch.inputs[0].shape[0]
    for n in range(samples):
        output = first_tensor(s.model(*(tensor[n : n + 1] for tensor in s.batch.inputs)))
        assert s.target is not None
        gradients = torch.autograd.grad(s.loss_between(output, s.target[n : n + 1]), list(trained.values()))
        for name, gradient in zip(trained, gradients, strict=True):
            totals[name] = totals.get(name, 0.0) + float(gradient.double().square().sum()) / samples
    return totals


def measured(s: SectionInput) -> dict[str, float]:
    samples = s.batch.inputs[0].shape[0]
    with replaying(s):
        norms = sample_norms(s, samples)
        assert not isinstance(norms, str), norms
        assert not norms.missing
        found = {entry.name: value for entry, value in norms.mean_squares.items()}
        if norms.without_formula:
            rest = sample_gradient_moments(s, norms.without_formula)
            assert rest is not None
            found |= {entry.name: part.mean_square for entry, part in rest.items()}
    return found
