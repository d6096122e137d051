"""Shared code of the tests of learning-rate scales: small networks, data, and first passes over them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

from gradinspect.contracts.document import from_python
from gradinspect.contracts.report.sections import LrScales
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.first_order.context import Budget, SectionInput
from gradinspect.engine.first_order.first_pass import Subject, first_pass
from gradinspect.engine.network.batch import Batch
from gradinspect.engine.network.fixed_loss import CustomLoss
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.network.reproducible import ordinary_graphs
from gradinspect.probes.lr_scales import suggest_scales
from gradinspect.probes.scales.groups import make_groups
from gradinspect.probes.scales.measurement import GroupMeasurement, measure_groups

SGD = {"type": "sgd", "lr": 0.1}


def section_input(
    model: nn.Module,
    inputs: torch.Tensor,
    target: torch.Tensor | None = None,
    *,
    custom_loss: CustomLoss | None = None,
    rebuild: Callable[[int], nn.Module] | None = None,
    seed: int = 0,
    synthetic: bool = False,
    seconds: float | None = None,
    **settings: Any,
) -> SectionInput:
    """Run the first pass over a model, with learning-rate scales requested."""
    asked = from_python(InspectionSettings, {"lr_scales": {}, "seed": seed, **settings})
    batch = Batch((inputs,), lambda _output: target, synthetic, "")
    subject = Subject(model, batch, seed, rebuild)
    with ordinary_graphs():
        return first_pass(subject, asked, device=torch.device("cpu"), custom_loss=custom_loss, budget=Budget(seconds))


def suggestion(s: SectionInput) -> LrScales:
    with ordinary_graphs():
        section = suggest_scales(s).section
    assert isinstance(section, LrScales)
    return section


def measured(s: SectionInput) -> list[GroupMeasurement]:
    return measure_groups(s, make_groups(s))


def drawn(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Initialise a module from a seed, without changing the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def mlp(
    *widths: int, activation: type[nn.Module] = nn.Tanh, seed: int = 0, dtype: torch.dtype = torch.float64
) -> nn.Sequential:
    """Linear layers with torch's own initialisation and an activation between them."""

    def make() -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after, dtype=dtype), activation()]
        return nn.Sequential(*layers[:-1])

    net = drawn(make, seed)
    assert isinstance(net, nn.Sequential)
    return net


def glorot(net: nn.Sequential, seed: int = 0) -> nn.Sequential:
    """Xavier-uniform weights and zero biases."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
    return net


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def classes(count: int, samples: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, count, (samples,), generator=torch.Generator().manual_seed(seed))


def digits(samples: int = 1797) -> tuple[torch.Tensor, torch.Tensor]:
    """Standardised 8×8 digits, float32."""
    inputs, labels = load_digits(return_X_y=True)
    x = torch.tensor(inputs[:samples], dtype=torch.float32)
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-6), torch.tensor(labels[:samples])


def scripted(model: nn.Module) -> torch.jit.ScriptModule:
    """Return the model loaded from its TorchScript file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(model), file)
        loaded: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(file.getvalue()))
        return loaded


def jacobian(s: SectionInput, entries: tuple[ParameterEntry, ...]) -> torch.Tensor:
    """∂output/∂parameters, (outputs, parameters), one backward pass an output: independent of forward mode."""
    tensors = [entry.tensor for entry in entries]
    output = s.model(*s.batch.inputs).reshape(-1)
    rows = [torch.autograd.grad(value, tensors, retain_graph=True) for value in output]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


def output_hessian(s: SectionInput) -> torch.Tensor:
    """∂²loss/∂output² as a matrix."""
    output = s.model(*s.batch.inputs).detach()
    shape = output.shape
    hessian: torch.Tensor = torch.autograd.functional.hessian(
        lambda flat: s.loss_of(flat.reshape(shape)), output.reshape(-1)
    )
    return hessian
