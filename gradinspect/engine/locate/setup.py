"""What surrounds the network, with the place of an operation that does not fit the loss behind it."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from gradinspect.contracts.report.setup import OutputHead, ParameterStep, RepeatedRows, Setup
from gradinspect.engine.first_order.batch_tensors import batch_tensors, conflicting_samples
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.locate.locate import COST_IN_PASSES, locate_heads
from gradinspect.engine.locate.unhealthy import unhealthy_pass
from gradinspect.engine.network.batch import tensors_in
from gradinspect.engine.network.reproducible import left_as_found, ordinary_graphs
from gradinspect.engine.tracing.calls import LayerCall
from gradinspect.engine.tracing.operator_names import ATEN_BATCH_NORMALIZATIONS

_MOST_NAMES = 64
_OF_LOGITS = frozenset({"cross_entropy", "bce_with_logits"})


def setup_of(s: SectionInput) -> Setup:
    """Collect what surrounds the network in the first pass.

    Cost: a sample of each input and target; where an operation does not fit the loss, one watched pass to locate it.
    """
    synthetic, reading = s.batch.synthetic, s.reading
    # Targets tell the units of the last layer apart; those of classes that are not in the batch are equal in this step.
    at_output = {entry for call in reading.calls if call.order not in reading.following for entry in call.entries}
    return Setup(
        tensors=batch_tensors(s),
        samples=_samples(s),
        conflicting_samples=None if synthetic else conflicting_samples(s.batch.inputs, s.target),
        heads=_located(s),
        steps=tuple(
            ParameterStep(
                parameter=entry.name,
                dtype=str(entry.tensor.dtype).removeprefix("torch."),
                nonfinite_fraction=step.nonfinite,
                lost_fraction=step.lost,
            )
            for entry, step in reading.steps.items()
            if step.nonfinite or step.lost
        ),
        repeated_rows=tuple(
            RepeatedRows(parameter=entry.name, share=share)
            for entry, share in reading.repeated_rows.items()
            if entry not in at_output
        ),
        unregistered=reading.unregistered,
        single_element_norms=_names(s, _is_over_one),
        single_sample_norms=_names(s, _is_over_one_sample) if s.settings.mode == "train" and _samples(s) == 1 else (),
        fresh_statistics=_fresh_statistics(s.model) if s.settings.mode == "eval" else (),
    )


def _samples(s: SectionInput) -> int | None:
    first = next(iter(tensors_in(s.batch.inputs)), None)
    return first.shape[0] if first is not None and first.dim() else None


def _names(s: SectionInput, condition: Callable[[LayerCall], bool]) -> tuple[str, ...]:
    chosen = [
        name.name
        for call in s.reading.calls
        if condition(call) and "Instance" not in (name := s.names[call.order]).kind
    ]
    return tuple(dict.fromkeys(chosen))[:_MOST_NAMES]


def _is_over_one(call: LayerCall) -> bool:
    """Check whether a call normalises groups of one element."""
    given = [value for value in call.arguments if value is not None]
    match call.operation, given:
        case "native_group_norm", [_, int(channels), int(positions), int(groups), *_]:
            return bool(channels * positions == groups)
        case "native_layer_norm" | "_fused_rms_norm", [[*sizes], *_]:
            return bool(math.prod(sizes) == 1)
    return False


def _is_over_one_sample(call: LayerCall) -> bool:
    return call.operation in ATEN_BATCH_NORMALIZATIONS and True in call.arguments


def _fresh_statistics(model: nn.Module) -> tuple[str, ...]:
    """Name the modules whose running mean is 0 and variance 1 everywhere, as before the first training step."""
    buffers = dict(model.named_buffers())
    names = [name.removesuffix("running_var").rstrip(".") for name in buffers if name.endswith("running_var")]
    fresh = [
        name
        for name in names
        if (mean := buffers.get(f"{name}.running_mean" if name else "running_mean")) is not None
        and not bool(mean.any())
        and bool((buffers[f"{name}.running_var" if name else "running_var"] == 1).all())
    ]
    return tuple(name or "(model)" for name in fresh)[:_MOST_NAMES]


def _located(s: SectionInput) -> tuple[OutputHead, ...]:
    heads = tuple(s.heads)
    if not any(map(_may_not_fit, heads)):
        return heads
    if not s.budget.allows(COST_IN_PASSES * s.pass_seconds):
        return heads
    try:
        with left_as_found(s.model, s.settings.mode), ordinary_graphs():
            return locate_heads(unhealthy_pass(s), heads)
    except Exception:  # noqa: BLE001  # the model may raise anything under a watch
        return heads


def _may_not_fit(head: OutputHead) -> bool:
    if head.last_operation is None:
        return False
    if head.loss_function in _OF_LOGITS:
        return head.last_operation != "log_softmax"
    return bool(head.is_over_samples or head.targets_outside or head.log_probability_error)
