"""The learning-rate suggestion as Python: an optimizer's parameter groups, to paste below the model."""

from __future__ import annotations

from gradinspect.contracts.optimizers import ASSUMED, Optimizer
from gradinspect.contracts.report.sections import LrScales, ScaleGroup

_WHY_ONE_RATE = {
    "use": "",
    "keep_uniform": "  # scales would not help: one rate for all layers",
    "inconclusive_plateau": "  # it could not be decided which scales help: one rate for all layers",
    "none_learns": "  # no learning rate let this model learn, with scales or without",
    "undetermined": "  # no scales were computed: one rate for all layers",
}


def optimizer_code(scales: LrScales, *, optimizer: Optimizer | None = None, base_lr: float | None = None) -> str:
    """Write an optimizer with one parameter group per scale, as source that runs as printed on a variable `model`.

    One rate for all layers becomes a plain optimizer. Parameters that the suggestion does not name keep the base rate.
    Tensors are identified by their memory: TorchScript stores a tied weight as two parameters over one storage, whose
    gradients are parts of one sum, so both must use the same rate.

    Args:
        scales: the suggestion.
        optimizer: as declared in the request; default plain SGD.
        base_lr: the rate for scale 1; default the suggestion's, else the optimizer's.

    Returns:
        Source that defines `optimizer`.
    """
    declared = optimizer or ASSUMED
    rate = base_lr if base_lr is not None else scales.base_lr if scales.base_lr is not None else declared.lr
    groups = scaled_groups(scales)
    head = f"import torch\n\nbase_lr = {rate!r}\n"
    if not groups:
        call = declared.source("model.parameters()", lr="base_lr")
        return f"{head}optimizer = {call}{_WHY_ONE_RATE[scales.verdict]}\n"
    rows = "".join(f"    ({group.scale!r}, [{', '.join(map(repr, group.parameters))}]),\n" for group in groups)
    return (
        f"{head}"
        f"scales = [\n{rows}]\n\n"
        "named = dict(model.named_parameters(remove_duplicate=False))\n"
        "scale_of = {named[name].data_ptr(): scale for scale, names in scales for name in names}\n"
        "groups = {}\n"
        "for tensor in model.parameters():\n"
        "    groups.setdefault(scale_of.get(tensor.data_ptr(), 1.0), []).append(tensor)\n"
        'groups = [{"params": tensors, "lr": base_lr * scale} for scale, tensors in groups.items()]\n'
        f"optimizer = {declared.source('groups', lr='base_lr')}\n"
    )


def scaled_groups(scales: LrScales) -> tuple[ScaleGroup, ...]:
    """Return the groups to train with; none where the answer is one rate for all.

    An untested suggestion (`verify: false`) is used as requested; one that was tested and did not help is not.
    """
    if scales.verdict not in ("use", "undetermined"):
        return ()
    scaled = tuple(group for group in scales.groups if group.scale is not None)
    return scaled if any(group.scale != 1.0 for group in scaled) else ()
