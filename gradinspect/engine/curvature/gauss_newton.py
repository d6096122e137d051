"""Gauss-Newton products: how outputs move along a direction of the parameters, and the loss's curvature there.

With outputs f(θ) and loss ℓ, the Gauss-Newton matrix is G = Jᵀ H_out J, J = ∂f/∂θ, H_out = ∂²ℓ/∂f². A form uᵀGv is
computed in output space as (Ju)ᵀ H_out (Jv), without a vector of G's size.
Source: Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient descent", section 3.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.autograd import forward_ad

from gradinspect.engine.arrays.deferred import joint_length
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import only_tensor, output_of, replaying, run_model, twice_differentiable
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.engine.network.reproducible import seeded
from gradinspect.engine.network.swap import swapped

Direction = Mapping[ParameterEntry, torch.Tensor]

# Step of the central difference, relative to ‖θ‖/‖v‖. The truncation error grows with its square, the rounding error
# with eps over it; the cube root of eps balances the two, and 1e-4 was seen within 0.34 % of forward mode in float32.
RELATIVE_STEP = {torch.float64: 6e-6, torch.float32: 1e-4}
RELATIVE_STEP_LOW = 1e-2  # half precision: eps^(1/3) is 0.1 and more, where few networks are still close to linear


def output_direction(s: SectionInput, direction: Direction) -> torch.Tensor:
    """Compute J·v, the derivative of the model's output along a direction of its parameters.

    Args:
        s: the section's input.
        direction: v, as parameters to tensors of their shapes; parameters that are left out do not move.

    Returns:
        A tensor of the output's shape.

    Cost: one forward pass in forward mode (about two bare ones), exact; two bare forward passes where an operator has
    no forward-mode rule, by central differences.
    """
    exact = forward_mode(s, direction)
    return exact if exact is not None else central_difference(s, direction)


def forward_mode(s: SectionInput, direction: Direction) -> torch.Tensor | None:
    """Compute J·v exactly.

    Returns:
        None where an operator has no forward-mode rule, or the model uses a parameter by another way than its name.
    """
    try:
        with replaying(s), twice_differentiable(), _dual_level(), torch.enable_grad(), seeded(s.seed, s.device):
            duals = {
                entry: forward_ad.make_dual(entry.tensor.detach(), direction[entry].to(entry.tensor))
                if entry in direction
                else entry.tensor.detach()
                for entry in s.parameters
            }
            with swapped(s.model, duals):
                output = only_tensor(run_model(s, s.batch.inputs))
            if output.requires_grad:  # a parameter that was not swapped
                return None
            tangent = forward_ad.unpack_dual(output).tangent
            return torch.zeros_like(output) if tangent is None else tangent.detach().clone()
    except (NotImplementedError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        return None


def central_difference(s: SectionInput, direction: Direction) -> torch.Tensor:
    """Approximate J·v by (f(θ + hv) − f(θ − hv)) / 2h; the parameters are moved in place and restored exactly."""
    size = joint_length([entry.tensor for entry in direction])
    length = joint_length(list(direction.values()))
    if length == 0:
        return torch.zeros(s.reading.output_shape, dtype=next(iter(s.parameters)).tensor.dtype, device=s.device)
    dtype = next(iter(direction)).tensor.dtype
    h = RELATIVE_STEP.get(dtype, RELATIVE_STEP_LOW) * (size or 1.0) / length
    with replaying(s), torch.no_grad():
        with _moved(direction, h):
            above = only_tensor(output_of(s))
        with _moved(direction, -h):
            below = only_tensor(output_of(s))
    return (above - below) / (2 * h)


def output_hessian_product(s: SectionInput, output: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Compute H_out·v, the loss's second derivative with respect to the outputs times a vector of their shape.

    Exact for every loss, by differentiating it twice: (diag p − ppᵀ)v/N for cross-entropy, 2v/numel for squared error.

    Cost: the loss alone, three times; the model is not run.
    """
    with torch.enable_grad():
        point = output.detach().requires_grad_()
        (slope,) = torch.autograd.grad(s.loss_of(point), point, create_graph=True)
        if slope.grad_fn is None:  # the loss is linear in the output
            return torch.zeros_like(point)
        (product,) = torch.autograd.grad(slope, point, v.to(slope), allow_unused=True)
    return torch.zeros_like(point) if product is None else product.detach()


@contextmanager
def _dual_level() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch scripts its own rules when the first dual is made
        with forward_ad.dual_level():
            yield


@contextmanager
def _moved(direction: Direction, h: float) -> Iterator[None]:
    saved = {entry: entry.tensor.detach().clone() for entry in direction}
    try:
        for entry, step in direction.items():
            entry.tensor.add_(step.to(entry.tensor), alpha=h)
        yield
    finally:
        for entry, value in saved.items():
            entry.tensor.copy_(value)
