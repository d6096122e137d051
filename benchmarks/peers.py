"""Other tools that compute the same numbers, each used as its documentation shows; measured where installed."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.models import Subject

Run = Callable[[Subject], None]


def tensorboard(_subject: Subject) -> Run:
    """Write `SummaryWriter.add_histogram` for every weight and gradient."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tempfile.mkdtemp())

    def run(measured: Subject) -> None:
        measured.bare()
        for name, parameter in measured.model.named_parameters():
            writer.add_histogram(name, parameter, 0)
            if parameter.grad is not None:
                writer.add_histogram(f"{name}.grad", parameter.grad, 0)

    return run


def wandb_watch(subject: Subject) -> Run:
    """Run `wandb.watch(log="all")`, offline, logging at every step."""
    import wandb

    run_of_wandb = wandb.init(mode="offline", dir=tempfile.mkdtemp())
    own = _with_own_model(subject)
    run_of_wandb.watch(own.model, log="all", log_freq=1)

    def run(_measured: Subject) -> None:
        own.bare()
        run_of_wandb.log({})

    return run


def backpack_batch_l2(subject: Subject) -> Run:
    """Run BackPACK's `BatchL2Grad`, its cheapest extension."""
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    own = _with_own_model(subject)
    model = extend(own.model)

    def run(_measured: Subject) -> None:
        model.zero_grad(set_to_none=True)
        with backpack(BatchL2Grad()):
            torch.autograd.backward(own.loss(model(own.inputs)))

    return run


def opacus_ghost_norms(subject: Subject) -> Run:
    """Compute per-sample norms by Opacus' ghost clipping, without its second pass that clips."""
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping

    own = _with_own_model(subject)
    model = GradSampleModuleFastGradientClipping(own.model, loss_reduction="mean")

    def run(_measured: Subject) -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(own.loss(model(own.inputs)))
        model.get_norm_sample()

    return run


def backpack_diagonal(subject: Subject) -> Run:
    """Run BackPACK's `DiagHessian`: the exact diagonal, for networks of supported modules."""
    from backpack import backpack, extend
    from backpack.extensions import DiagHessian

    own = _with_own_rows(subject)
    model, loss = extend(own.model), extend(nn.CrossEntropyLoss())

    def run(_measured: Subject) -> None:
        model.zero_grad(set_to_none=True)
        with backpack(DiagHessian()):
            loss(model(own.inputs), own.target).backward()

    return run


def curvlinops_product(subject: Subject) -> Run:
    """Compute one product of curvlinops' Hessian with a vector."""
    from curvlinops import HessianLinearOperator

    own = _with_own_rows(subject)
    hessian = HessianLinearOperator(
        own.model, nn.CrossEntropyLoss(), list(own.model.parameters()), [(own.inputs, own.target)],
        check_deterministic=False,
    )  # fmt: skip
    vector = torch.randn(hessian.shape[1])

    def run(_measured: Subject) -> None:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have a first derivative only
            hessian @ vector

    return run


def pyhessian_top(subject: Subject) -> Run:
    """Run ten steps of PyHessian's power iteration, including the graph."""
    from pyhessian import hessian

    own = _with_own_rows(subject)

    def run(_measured: Subject) -> None:
        own.model.zero_grad(set_to_none=True)
        with sdpa_kernel(SDPBackend.MATH):  # likewise
            made = hessian(own.model, nn.CrossEntropyLoss(), data=(own.inputs, own.target), cuda=False)
            made.eigenvalues(maxIter=10, tol=0.0)
        own.model.zero_grad(set_to_none=True)  # its gradients and the graph refer to each other

    return run


def _with_own_model(subject: Subject) -> Subject:
    """Return the subject with a copy of its model, so that a peer's hooks do not slow the bare pass."""
    return replace(subject, model=copy.deepcopy(subject.model))


def _with_own_rows(subject: Subject) -> Subject:
    """Return a copy whose output has one row for each target, as `CrossEntropyLoss` takes it."""
    own = _with_own_model(subject)
    if own.target.dim() == 1:
        return own
    return replace(own, model=nn.Sequential(own.model, nn.Flatten(0, -2)), target=own.target.flatten())


# label: package, and the function that makes a run
Peers = dict[str, tuple[str, Callable[[Subject], Run]]]

PEERS: Peers = {
    "TensorBoard add_histogram": ("tensorboard", tensorboard),
    "wandb.watch": ("wandb", wandb_watch),
    "BackPACK BatchL2Grad": ("backpack", backpack_batch_l2),
}

NOISE_PEERS: Peers = {
    "BackPACK BatchL2Grad": ("backpack", backpack_batch_l2),
    "Opacus ghost norms": ("opacus", opacus_ghost_norms),
}
CURVATURE_PEERS: Peers = {
    "curvlinops H·v": ("curvlinops", curvlinops_product),
    "BackPACK DiagHessian": ("backpack", backpack_diagonal),
    "PyHessian top eigenvalue, 10 steps": ("pyhessian", pyhessian_top),
}
