"""A spec becomes an nn.Module: the plan says what stands where, torch.nn does the rest.

The module is a torch.nn.Sequential whose children carry the plan's keys, so `named_parameters` reads like the plan.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.spec.layers import Concat, Residual
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.plan import Block, Call, Plan, Step
from gradinspect.engine.network import modules, single_tensor
from gradinspect.engine.network.load import load_tensors

# Types that are not torch.nn's class of the same name: our own, and torch's made to return one tensor.
OWN_MODULES: dict[str, type[nn.Module]] = {
    "PositionalEmbedding": modules.PositionalEmbedding,
    "Permute": modules.Permute,
    "Mean": modules.Mean,
    "RNN": single_tensor.RNN,
    "GRU": single_tensor.GRU,
    "LSTM": single_tensor.LSTM,
    "MultiheadAttention": single_tensor.MultiheadAttention,
    "TransformerEncoderLayer": single_tensor.TransformerEncoderLayer,
    "TransformerEncoder": single_tensor.TransformerEncoder,
}


def build(
    spec: ModelSpec, *, seed: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> nn.Module:
    """Build the network that `spec` describes, in training mode.

    Parameters are drawn in float32 on the CPU and cast, so that one seed gives the same network in every dtype and on
    every device. The global random state is left as it was.

    Args:
        spec: a validated spec.
        seed: 0 … 2⁶³ − 1.
        dtype: of floating-point parameters and buffers.
        device: where the parameters go.

    Returns:
        A torch.nn.Sequential; takes one tensor (batch, …), gives one tensor. Can be scripted and traced.

    Raises:
        RuntimeError: the plan and torch disagree about a parameter, a defect of this project.

    Cost: the parameters twice in float32 at most; the cross-check runs on the meta device and takes no memory.
    """
    plan = spec.plan
    with torch.device("meta"):
        _cross_check(_assemble(plan.steps), plan)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _assemble(plan.steps)
        _initialize(model, plan)
    for call in _calls(plan.steps):
        module = model.get_submodule(call.path)
        if call.tied_to is not None:
            module.register_parameter("weight", _weight(model, call.tied_to))
    for call in _calls(plan.steps):
        if call.frozen:
            model.get_submodule(call.path).requires_grad_(False)
    return model.to(device=device, dtype=dtype)


def load_weights(model: nn.Module, data: bytes) -> None:
    """Fill a built model with the tensors of a safetensors file, by the names of its `state_dict`.

    Values are cast to the dtype of the parameter they fill. A tied weight may be left out under its other name.

    Raises:
        InspectionError: `data_mismatch`, naming tensors that are missing, unknown or of another shape.
    """
    given = load_tensors(data)
    wanted = model.state_dict()
    shapes = {name: list(given[name].shape) for name in given if name in wanted}
    differing = [name for name, shape in shapes.items() if shape != list(wanted[name].shape)]
    if differing:
        name = differing[0]
        raise InspectionError(
            "data_mismatch", f"weights: {name!r} has shape {shapes[name]}, the spec makes {list(wanted[name].shape)}"
        )
    present = {wanted[name].data_ptr() for name in shapes if wanted[name].numel()}
    missing = [name for name, tensor in wanted.items() if name not in given and tensor.data_ptr() not in present]
    unknown = [name for name in given if name not in wanted]
    if missing or unknown:
        parts = [f"{what} {', '.join(map(repr, names[:5]))}" for what, names in
                 (("missing are", missing), ("unknown are", unknown)) if names]  # fmt: skip
        raise InspectionError("data_mismatch", f"the weights do not fit the spec: {'; '.join(parts)}")
    with torch.no_grad():
        for name in shapes:
            wanted[name].copy_(given[name])


def _assemble(steps: Sequence[Step]) -> nn.Sequential:
    return nn.Sequential(OrderedDict((step.key, _module(step)) for step in steps))


def _module(step: Step) -> nn.Module:
    if isinstance(step, Call):
        kind = step.layer.type
        made: nn.Module = (OWN_MODULES.get(kind) or getattr(nn, kind))(**step.layer.arguments(step.inferred))
        return made
    container = step.container
    if isinstance(container, Concat):
        return modules.Concat([_assemble(row) for row in step.rows], dim=container.dim)
    if isinstance(container, Residual):
        layers = {inner.key: _module(inner) for inner in step.rows[0]}
        shortcut = _assemble(step.shortcut) if step.shortcut else None
        return modules.Residual(layers, scale=container.scale, shortcut=shortcut)
    return _assemble(step.rows[0])


def _calls(steps: Sequence[Step]) -> Iterator[Call]:
    for step in steps:
        if isinstance(step, Block):
            for row in (*step.rows, step.shortcut):
                yield from _calls(row)
        else:
            yield step


def _cross_check(model: nn.Module, plan: Plan) -> None:
    """Hold torch's parameters, unshared still, against the plan's."""
    planned = {f"{call.path}.{name}": shape for call in _calls(plan.steps) for name, shape in call.parameters.items()}
    built = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if planned != built:
        odd = sorted(name for name in planned.keys() | built.keys() if planned.get(name) != built.get(name))
        raise RuntimeError(f"the plan and torch disagree about {odd[:5]}: {planned.get(odd[0])}, {built.get(odd[0])}")


def _initialize(model: nn.Module, plan: Plan) -> None:
    for call in _calls(plan.steps):
        module = model.get_submodule(call.path)
        for name, initializer in call.initializers.items():
            fill = getattr(nn.init, initializer.name)
            fill(module.get_parameter(name), **initializer.arguments())
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                with torch.no_grad():
                    module.weight[module.padding_idx].zero_()


def _weight(model: nn.Module, path: str) -> nn.Parameter:
    return model.get_submodule(path).get_parameter("weight")
