"""The terms of a loss that is a sum: the gradient of each, and whether they agree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from gradinspect.contracts.report.losses import MAX_TERM_LAYERS, MAX_TERMS, LossTerm, TermLayer
from gradinspect.engine.first_order.context import SectionInput, refused
from gradinspect.engine.first_order.replay import output_of, replaying
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.derivatives import parameter_gradients
from gradinspect.engine.network.parameters import owner_of
from gradinspect.engine.tracing.naming import layer_of_parameters

Gradients = Sequence[torch.Tensor | None]  # one for each trained parameter

_ROUNDING = 1e-20  # of squared norms: the others' sum is a difference of float64 numbers


def loss_terms(s: SectionInput) -> tuple[LossTerm, ...]:
    """Measure every term; a loss of one term has none to compare.

    Cost: one forward pass and a backward pass for each term; memory of one gradient of the model for each term, and
    of their float64 sum.
    """
    values = dict(list(s.terms().items())[:MAX_TERMS])
    if len(values) < 2:
        return ()
    reason = refused(s.budget, (len(values) + 1) * s.pass_seconds)
    if reason is None:
        try:
            return _measured(s, values)
        except (RuntimeError, MemoryError) as error:
            reason = "memory ran out" if out_of_memory(error) else f"torch refused: {str(error).strip()[:500]}"
    return tuple(LossTerm(name=_short(name), value=_finite(value), reason=reason) for name, value in values.items())


def _measured(s: SectionInput, values: Mapping[str, float]) -> tuple[LossTerm, ...]:
    entries = [entry for entry in s.parameters if entry.requires_grad]
    with replaying(s), torch.enable_grad():
        terms = s.terms_of(output_of(s), s.target)
        gradients = {
            name: parameter_gradients(terms[name], entries, retain_graph=True)
            if terms[name].requires_grad
            else [None] * len(entries)
            for name in values
        }
    total = [_sum([gradients[name][index] for name in values]) for index in range(len(entries))]
    layer_of = layer_of_parameters(s.reading.calls, s.names)
    layers = [layer_of.get(entry, owner_of(entry.name) or entry.name) for entry in entries]
    return tuple(_term(name, value, gradients[name], total, layers) for name, value in values.items())


def _term(name: str, value: float, own: Gradients, total: Gradients, layers: Sequence[str]) -> LossTerm:
    parts: dict[str, tuple[float, float, float]] = {}  # layer → ‖g‖², ‖rest‖², ⟨g, rest⟩
    reached = set()
    for gradient, whole, layer in zip(own, total, layers, strict=True):
        if whole is None:
            continue
        g = torch.zeros_like(whole) if gradient is None else gradient.detach().double()
        if gradient is not None:
            reached.add(layer)
        rest = whole - g
        square, others, product = parts.get(layer, (0.0, 0.0, 0.0))
        parts[layer] = (
            square + float(g.square().sum()), others + float(rest.square().sum()), product + float((g * rest).sum()),
        )  # fmt: skip
    sums = _totals(parts.values())
    rows = [
        TermLayer(layer=_short(layer), grad_norm=_finite(math.sqrt(part[0])), cosine=_cosine(*part))
        for layer, part in parts.items()
        if layer in reached
    ]
    return LossTerm(
        name=_short(name),
        value=_finite(value),
        grad_norm=_finite(math.sqrt(sums[0])),
        cosine=_cosine(*sums),
        shared_cosine=_cosine(*_totals(part for part in parts.values() if _cosine(*part) is not None)),
        layers=tuple(rows[:MAX_TERM_LAYERS]),
    )


def _totals(parts: Iterable[tuple[float, float, float]]) -> tuple[float, float, float]:
    square = others = product = 0.0
    for part in parts:
        square, others, product = square + part[0], others + part[1], product + part[2]
    return square, others, product


def _cosine(square: float, others: float, product: float) -> float | None:
    """Return the cosine; None where one of the two is zero but for rounding of the difference, or not finite."""
    if not (math.isfinite(square) and math.isfinite(others)) or square == 0 or others <= _ROUNDING * square:
        return None
    return max(-1.0, min(1.0, product / math.sqrt(square * others)))


def _sum(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    present = [part.detach().double() for part in parts if part is not None]
    return torch.stack(present).sum(0) if present else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(name: str) -> str:
    return name[:256] or "loss"
