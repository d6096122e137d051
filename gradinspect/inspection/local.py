"""Inspect without a server: the same engine, rules and report, in the caller's own process, unconfined."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import ModelReference
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.spec.digest import spec_digest
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.wire.messages import Job, Limits
from gradinspect.engine.first_order.context import Budget
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.batch import Batch, Target, digest, make_batch, map_tensors, tensors_in
from gradinspect.engine.network.exported.model import ExportedModel
from gradinspect.engine.network.losses import draw_target
from gradinspect.engine.network.outputs import first_tensor
from gradinspect.engine.network.reproducible import generator
from gradinspect.inspection.argument_types import check_types
from gradinspect.inspection.job import choose_device, in_exported_mode, run_job
from gradinspect.inspection.measure import Progress, measure
from gradinspect.inspection.optimizer_object import read_optimizer
from gradinspect.inspection.subjects import module_subjects, spec_dtype, spec_subjects
from gradinspect.report.shown import Report
from gradinspect.rules import find_policy, judge

if TYPE_CHECKING:
    from gradinspect.contracts.request.request import Loss
    from gradinspect.contracts.sections import Diagnostic
    from gradinspect.engine.network.fixed_loss import CustomLoss


@contextmanager
def memory_named() -> Iterator[None]:
    """Turn a failed allocation, wherever it happens, into the caller's named error."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise InspectionError("memory_limit", "the model, its batch or its gradients do not fit into memory") from error


@memory_named()
def inspect(
    model: nn.Module | dict[str, Any] | ModelSpec,  # Any: a spec is JSON until it is validated
    inputs: torch.Tensor | Sequence[torch.Tensor] | None = None,
    targets: Target = None,
    *,
    loss: Loss | CustomLoss = "cross_entropy",
    optimizer: torch.optim.Optimizer | dict[str, Any] | None = None,
    precision: dict[str, Any] | None = None,
    diagnostics: Sequence[Diagnostic] = ("gradients", "signals"),
    lr_scales: bool | dict[str, Any] = False,
    trial: Literal["auto", "off"] | dict[str, Any] = "auto",
    policy: str | dict[str, Any] | Policy = "default",
    mode: Literal["train", "eval"] | None = None,
    seeds: int = 1,
    seed: int = 0,
    device: str = "auto",
    time_limit: float | None = None,
    progress: Progress = lambda _stage, _fraction: None,
) -> Report:
    """Inspect a model on one batch and judge what was measured.

    Args:
        model: an `nn.Module` (eager, scripted or traced) or a spec as a dict. A module is restored afterwards:
            mode, gradients, hooks, buffers, random state and requires_grad.
        inputs: (batch, …), or several tensors that share their first axis. May be left out for a spec. The model
            receives these very tensors, so a loss may differentiate by an input that requires a gradient.
        targets: what the loss compares the output with: a tensor, or for a callable also nested dicts, lists and
            tuples of tensors. Left out, it is drawn from `seed` to fit the output and the loss.
        loss: a name (cross_entropy, mse, l1, huber, bce_with_logits, nll, output_mean, random_cotangent), or a
            callable of (output, target). It receives what the model returned, be it a tensor, tuple, dict or
            dataclass, and returns a scalar, or a dict of named scalars whose sum is the loss.
        optimizer: as in a request: {"type": "sgd", "lr": 0.1}; its first step gives the update ratios. Or a
            `torch.optim` object, which is read and not changed: its class and settings (SGD, Adam, AdamW; the rate of
            the first group), and which parameters it holds.
        precision: as in a request: {"intended": "float16", "loss_scale": 65536}.
        diagnostics: sections to compute.
        lr_scales: True, or a dict as in a request, to suggest learning-rate scales and test them (minutes).
        trial: train the model on the batch to see whether it learns: "auto", "off", or a budget as in a request:
            {"steps": 2000, "seconds": 20}. The model is restored.
        policy: "default", a policy document, or its dict.
        mode: run the model in training or evaluation mode. Left out: training, or the mode of an exported program.
        seeds: 1 … 32; average over this many initialisations of a spec, or equal parts of a module's batch.
        seed: 0 … 2⁶³ − 1; everything random is drawn from it.
        device: auto, cpu or cuda, for specs; a module is inspected on its own device.
        time_limit: seconds for everything; a section that does not fit is `undetermined`. None: unlimited.
        progress: called with the name of the stage and the fraction done, in [0, 1], which never decreases.

    Returns:
        The report; `print(report)` and a notebook show it.

    Raises:
        TypeError: an argument is of another type; the message says what to give.
        ProblemError: an argument is wrong; `errors` names the field.
        InspectionError: the model cannot be measured on this batch; `code` and `detail` say why.

    Cost: one forward and one backward pass and the statistics, 1.02-1.5 times the bare passes; with a trial, for a
    healthy network some 10-60 training steps more, for a sick one up to 2,000 steps or 20 s, and as much again for
    a prescription.
    """
    check_types(model, inputs, targets, optimizer)
    held = read_optimizer(optimizer, model) if isinstance(optimizer, torch.optim.Optimizer) else None
    declared = held.declared if held is not None else optimizer
    settings = _settings(
        loss, optimizer=declared, precision=precision, diagnostics=list(diagnostics),
        lr_scales={} if lr_scales is True else lr_scales, trial=trial, mode=mode, seeds=seeds, seed=seed, device=device,
    )  # fmt: skip
    rules = find_policy(policy)
    if isinstance(model, nn.Module):
        where = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
        if isinstance(model, ExportedModel):
            settings = in_exported_mode(settings, model.program)
        subjects = module_subjects(model, settings, _caller_batches(inputs, targets, settings))
        reference = ModelReference(name=_class_name(model), kind=_kind(model))
    else:
        spec = model if isinstance(model, ModelSpec) else from_python(ModelSpec, model, code="invalid_spec")
        where = choose_device(settings)
        batch = partial(_spec_batch, spec, inputs, targets, settings, where)
        subjects = spec_subjects(spec, settings, device=where, batch=batch)
        reference = ModelReference(kind="spec", digest=spec_digest(spec))
    with _random_states_restored(), _gradients_restored(inputs, targets):
        measured = measure(
            subjects, settings, device=where, custom_loss=loss if callable(loss) else None,
            budget=Budget(time_limit), memory_bytes=local_limits().memory_bytes, progress=progress,
        )  # fmt: skip
    if held is not None and measured.setup is not None:
        setup = measured.setup.model_copy(update={"optimizer": held.document})
        measured = measured.model_copy(update={"setup": setup})
    report = judge(measured, policy=rules, model=reference, inspection=None, settings=settings)
    return Report.of(report, settings=settings)


@memory_named()
def inspect_job(
    job: Job,
    *,
    model_bytes: bytes | None = None,
    weights_bytes: bytes | None = None,
    data_bytes: bytes | None = None,
    model: ModelReference,
    policy: str | dict[str, Any] | Policy = "default",
    progress: Progress = lambda _stage, _fraction: None,
) -> Report:
    """Run a job in this process, unconfined, and judge it: the CLI's local mode.

    A TorchScript file is a program: here it runs with the caller's rights.

    Raises:
        InspectionError, ProblemError: as `inspect` does.
    """
    rules = find_policy(policy)
    threads = torch.get_num_threads()
    try:
        with _random_states_restored():
            measured = run_job(
                job, model_bytes=model_bytes, weights_bytes=weights_bytes, data_bytes=data_bytes,
                progress=progress,
            )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    report = judge(measured, policy=rules, model=model, inspection=None, settings=job.settings)
    return Report.of(report, settings=job.settings)


def local_limits(*, wall_seconds: float = 300.0) -> Limits:
    """Return the limits of a local run: all of torch's threads and the machine's memory.

    Args:
        wall_seconds: sections that do not fit are left undetermined.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**36
    return Limits(threads=min(torch.get_num_threads(), 256), wall_seconds=wall_seconds, memory_bytes=memory)


@contextmanager
def _random_states_restored() -> Iterator[None]:
    """Restore Python's and numpy's global random states, from which a model may draw."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _gradients_restored(*arguments: object) -> Iterator[None]:
    """Restore the gradients of the caller's tensors, which a backward pass adds to."""
    leaves = [tensor for tensor in tensors_in(arguments) if tensor.is_leaf and tensor.requires_grad]
    saved = [tensor.grad for tensor in leaves]
    for tensor in leaves:
        tensor.grad = None
    try:
        yield
    finally:
        for tensor, gradient in zip(leaves, saved, strict=True):
            tensor.grad = gradient


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """Return the caller's tensor itself; one that was computed is detached, since a pass would free its graph."""
    return tensor if tensor.is_leaf else tensor.detach().requires_grad_(tensor.requires_grad)


def _settings(loss: object, **fields: object) -> InspectionSettings:
    """Validate the arguments as a request's settings; None and a callable loss are left out."""
    requested = {name: value for name, value in fields.items() if value is not None}
    return from_python(InspectionSettings, requested if callable(loss) else {**requested, "loss": loss})


def _spec_batch(
    spec: ModelSpec,
    inputs: torch.Tensor | Sequence[torch.Tensor] | None,
    targets: Target,
    settings: InspectionSettings,
    device: torch.device,
) -> Batch:
    if inputs is not None:
        return _caller_batches(inputs, targets, settings.model_copy(update={"seeds": 1}))(0, settings.seed)
    batch = make_batch(
        None, None, sample_input=spec.input, vocabulary=spec.input.high, loss=settings.loss,
        dtype=spec_dtype(settings), device=device, seed=settings.seed,
    )  # fmt: skip
    return batch if targets is None else batch.with_target(map_tensors(targets, lambda tensor: tensor.to(device)))


def _caller_batches(
    inputs: torch.Tensor | Sequence[torch.Tensor] | None,
    targets: Target,
    settings: InspectionSettings,
) -> Callable[[int, int], Batch]:
    """Cut the caller's tensors into one batch per seed: (index, seed) → the batch."""
    if inputs is None:
        raise TypeError("inspect() needs inputs for a module: a tensor (batch, …), or a sequence of tensors")
    whole = tuple(_own(tensor) for tensor in ((inputs,) if isinstance(inputs, torch.Tensor) else inputs))
    samples = whole[0].shape[0] if settings.seeds > 1 and whole[0].dim() else 0
    if settings.seeds > max(samples, 1):
        raise InspectionError("data_mismatch", f"seeds is {settings.seeds}, but the batch holds {samples} samples")

    def batch(index: int, seed: int) -> Batch:
        part = slice(index * samples // settings.seeds, (index + 1) * samples // settings.seeds)
        cut = tuple(tensor[part] for tensor in whole) if settings.seeds > 1 else whole
        if targets is not None:
            target = map_tensors(targets, lambda tensor: tensor[part]) if settings.seeds > 1 else targets
            return Batch(cut, lambda _output: target, False, digest((*cut, *tensors_in(target))))
        draws = generator(seed, "target")
        return Batch(
            cut, lambda output: draw_target(settings.loss, first_tensor(output), None, draws), True, digest(cut)
        )

    return batch


def _class_name(model: nn.Module) -> str:
    if isinstance(model, ExportedModel):
        return model.class_name[:256]
    name = getattr(model, "original_name", type(model).__name__)
    return str(name)[:256]


def _kind(model: nn.Module) -> Literal["torchscript", "exported", "module"]:
    if isinstance(model, ExportedModel):
        return "exported"
    return "torchscript" if isinstance(model, torch.jit.ScriptModule) else "module"
