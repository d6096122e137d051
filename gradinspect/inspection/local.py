"""Inspect without a server: the same engine, rules and report, in the caller's own process, unconfined."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import ModelReference
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.wire.messages import Job, Limits
from gradinspect.engine.first_order.memory import out_of_memory
from gradinspect.engine.network.autocast import weight_dtype
from gradinspect.engine.network.batch import Batch, digest, make_batch
from gradinspect.engine.network.build import build
from gradinspect.engine.network.losses import draw_target
from gradinspect.engine.network.reproducible import generator
from gradinspect.inspection.argument_types import check_types
from gradinspect.inspection.job import choose_device, run_job
from gradinspect.inspection.measure import Progress, Subject, measure
from gradinspect.report.shown import Report
from gradinspect.rules import find_policy, judge, remedies_to_try

if TYPE_CHECKING:
    from gradinspect.contracts.request.request import Loss
    from gradinspect.contracts.sections import Diagnostic

    CustomLoss = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


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
    targets: torch.Tensor | None = None,
    *,
    loss: Loss | CustomLoss = "cross_entropy",
    optimizer: dict[str, Any] | None = None,
    precision: dict[str, Any] | None = None,
    diagnostics: Sequence[Diagnostic] = ("gradients", "signals"),
    lr_scales: bool | dict[str, Any] = False,
    policy: str | dict[str, Any] | Policy = "default",
    mode: Literal["train", "eval"] = "train",
    seed: int = 0,
    device: str = "auto",
) -> Report:
    """Inspect a model on one batch and judge what was measured.

    Args:
        model: an `nn.Module` (eager, scripted or traced) or a spec as a dict. A module stays where it is and is left
            as it was: mode, gradients, hooks, buffers, random state and requires_grad.
        inputs: (batch, …), or several tensors that share their first axis. May be left out for a spec.
        targets: what the loss compares the output with; left out, drawn from `seed` to fit the output and the loss.
        loss: a name (cross_entropy, mse, l1, huber, bce_with_logits, nll, output_mean, random_cotangent), or a
            callable of (output, target) that returns a scalar.
        optimizer: as in a request: {"type": "sgd", "lr": 0.1}; its first step gives the update ratios.
        precision: as in a request: {"intended": "float16", "loss_scale": 65536}.
        diagnostics: sections to compute.
        lr_scales: True or a request's settings.
        policy: "default", a policy document, or its dict.
        mode: run the model in training or evaluation mode.
        seed: 0 … 2⁶³ − 1; everything random is drawn from it.
        device: auto, cpu or cuda, for specs; a module is inspected on the device that it is on.

    Returns:
        The report; `print(report)` and a notebook show it.

    Raises:
        TypeError: an argument is of another type; the message says what to give.
        ProblemError: an argument is wrong; `errors` names the field.
        InspectionError: the model cannot be measured on this batch; `code` and `detail` say why.

    Cost: one forward and one backward pass and the statistics, 1.02-1.5 times the bare passes.
    """
    check_types(model, inputs, targets, optimizer)
    settings = _settings(loss, optimizer, precision, diagnostics, lr_scales, mode, seed, device)
    custom = loss if callable(loss) else None
    rules = find_policy(policy)
    if isinstance(model, nn.Module):
        given = _module_batch(inputs, targets, settings)
        where = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
        subject = Subject(model, given, seed)
        reference = ModelReference(name=_class_name(model), kind=_kind(model))
    else:
        spec = model if isinstance(model, ModelSpec) else from_python(ModelSpec, model, code="invalid_spec")
        where = choose_device(settings)
        dtype = weight_dtype(settings.precision.compute) or torch.float32
        built = build(spec, seed=seed, dtype=dtype, device=where)
        if inputs is None:
            given = make_batch(
                None, None, sample_input=spec.input, vocabulary=spec.input.high, loss=settings.loss, dtype=dtype,
                device=where, seed=seed,
            )  # fmt: skip
            given = given if targets is None else given.with_target(targets.to(where))
        else:
            given = _module_batch(inputs, targets, settings)
        subject = Subject(built, given, seed, lambda other: build(spec, seed=other, dtype=dtype, device=where))
        reference = ModelReference(kind="spec")
    with _random_states_kept():
        measured = measure([subject], settings, device=where, custom_loss=custom, suggest=remedies_to_try)
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

    A TorchScript file is a program of its author's; what it does here, it does with the caller's rights.

    Raises:
        InspectionError, ProblemError: as `inspect` does.
    """
    rules = find_policy(policy)
    threads = torch.get_num_threads()
    try:
        with _random_states_kept():
            measured = run_job(
                job, model_bytes=model_bytes, weights_bytes=weights_bytes, data_bytes=data_bytes,
                suggest=remedies_to_try, progress=progress,
            )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    report = judge(measured, policy=rules, model=model, inspection=None, settings=job.settings)
    return Report.of(report, settings=job.settings)


def local_limits(*, wall_seconds: float = 300.0) -> Limits:
    """Limits of a local run: all of torch's threads and the machine's memory.

    Args:
        wall_seconds: what does not fit into them is left undetermined.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**36
    return Limits(threads=min(torch.get_num_threads(), 256), wall_seconds=wall_seconds, memory_bytes=memory)


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """A model may draw from Python's and numpy's global generators; the caller's next draws stay what they were."""
    python, numpy = random.getstate(), np.random.get_state()  # the global one is what models use
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # as above


def _settings(
    loss: object,
    optimizer: dict[str, Any] | None,
    precision: dict[str, Any] | None,
    diagnostics: Sequence[str],
    lr_scales: bool | dict[str, Any],
    mode: str,
    seed: int,
    device: str,
) -> InspectionSettings:
    asked: dict[str, Any] = {
        "diagnostics": list(diagnostics), "mode": mode, "seed": seed, "device": device,
        "lr_scales": {} if lr_scales is True else lr_scales,
    }  # fmt: skip
    if not callable(loss):
        asked["loss"] = loss
    if optimizer is not None:
        asked["optimizer"] = optimizer
    if precision is not None:
        asked["precision"] = precision
    return from_python(InspectionSettings, asked)


def _module_batch(
    inputs: torch.Tensor | Sequence[torch.Tensor] | None,
    targets: torch.Tensor | None,
    settings: InspectionSettings,
) -> Batch:
    if inputs is None:
        raise TypeError("inspect() needs inputs for a module: a tensor (batch, …), or a sequence of tensors")
    # Detached: a caller's input that requires a gradient shall not find ours in its .grad.
    given = tuple(tensor.detach() for tensor in ((inputs,) if isinstance(inputs, torch.Tensor) else inputs))
    if targets is not None:
        return Batch(given, lambda _output: targets, False, digest((*given, targets)))
    draws = generator(settings.seed, "target")
    return Batch(given, lambda output: draw_target(settings.loss, output, None, draws), True, digest(given))


def _class_name(model: nn.Module) -> str:
    name = getattr(model, "original_name", type(model).__name__)
    return str(name)[:256]


def _kind(model: nn.Module) -> Literal["torchscript", "module"]:
    return "torchscript" if isinstance(model, torch.jit.ScriptModule) else "module"
