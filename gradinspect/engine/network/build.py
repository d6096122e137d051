"""Construction of an nn.Module from the plan of a spec.

The module is a torch.nn.Sequential whose children have the plan's keys, so parameters have the plan's names.
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

# Layer types that are not torch.nn's class of the same name: ours, and subclasses of torch's that return one tensor.
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
    every device. The global random state is restored.

    Args:
        spec: a validated spec.
        seed: 0 … 2⁶³ − 1.
        dtype: dtype of floating-point parameters and buffers.
        device: device of the parameters.

    Returns:
        A torch.nn.Sequential that maps one tensor (batch, …) to one tensor. It can be scripted and traced.

    Raises:
        RuntimeError: the plan and torch disagree about a parameter, which is a bug of this project.

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
    """Load the tensors of a safetensors file into a built model, by the names of its `state_dict`.

    Values are cast to the dtype of the parameter. A tied weight needs one of its names only.

    Raises:
        InspectionError: `data_mismatch`, naming tensors that are missing, unknown or of another shape.
    """
    tensors = load_tensors(data)
    state = model.state_dict()
    shapes = {name: list(tensors[name].shape) for name in tensors if name in state}
    differing = [name for name, shape in shapes.items() if shape != list(state[name].shape)]
    if differing:
        name = differing[0]
        raise InspectionError(
            "data_mismatch", f"weights: {name!r} has shape {shapes[name]}, the spec makes {list(state[name].shape)}"
        )
    filled = {state[name].data_ptr() for name in shapes if state[name].numel()}
    missing = [name for name, tensor in state.items() if name not in tensors and tensor.data_ptr() not in filled]
    unknown = [name for name in tensors if name not in state]
    if missing or unknown:
        parts = [f"{what} {', '.join(map(repr, names[:5]))}" for what, names in
                 (("missing are", missing), ("unknown are", unknown)) if names]  # fmt: skip
        raise InspectionError("data_mismatch", f"the weights do not fit the spec: {'; '.join(parts)}")
    with torch.no_grad():
        for name in shapes:
            state[name].copy_(tensors[name])


def _assemble(steps: Sequence[Step]) -> nn.Sequential:
    return nn.Sequential(OrderedDict((step.key, _module(step)) for step in steps))


def _module(step: Step) -> nn.Module:
    if isinstance(step, Call):
        kind = step.layer.type
        module: nn.Module = (OWN_MODULES.get(kind) or getattr(nn, kind))(**step.layer.arguments(step.inferred))
        return module
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
    """Compare torch's parameters, before any is shared, with the plan's."""
    planned = {f"{call.path}.{name}": shape for call in _calls(plan.steps) for name, shape in call.parameters.items()}
    built = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if planned != built:
        wrong = sorted(name for name in planned.keys() | built.keys() if planned.get(name) != built.get(name))
        raise RuntimeError(
            f"the plan and torch disagree about {wrong[:5]}: {planned.get(wrong[0])}, {built.get(wrong[0])}"
        )


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
