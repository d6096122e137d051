"""The first-order pass over one model and batch, which prepares the input of the sections."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.sections import MAX_LAYERS
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.first_order.context import Budget, SectionInput
from gradinspect.engine.first_order.freed_memory import keep_freed_memory
from gradinspect.engine.first_order.opened_gates import read_opened
from gradinspect.engine.network.autocast import HALF, casting
from gradinspect.engine.network.batch import Batch
from gradinspect.engine.network.fixed_loss import CustomLoss, FixedLoss
from gradinspect.engine.network.optimizers import FirstStep, steps_of
from gradinspect.engine.network.parameters import ParameterIndex
from gradinspect.engine.network.reproducible import left_as_found, seeded
from gradinspect.engine.tracing.naming import name_calls
from gradinspect.engine.tracing.readings import PassReading
from gradinspect.engine.tracing.run_pass import TracedPass


@dataclass(frozen=True)
class Subject:
    """One pass to run.

    Attributes:
        model: the model.
        batch: the batch it runs on.
        seed: source of randomness inside the model (dropout).
        rebuild: builds the model from another seed; None for models that we do not initialise.
    """

    model: nn.Module
    batch: Batch
    seed: int
    rebuild: Callable[[int], nn.Module] | None = None


def first_pass(
    subject: Subject,
    settings: InspectionSettings,
    *,
    device: torch.device,
    custom_loss: CustomLoss | None = None,
    budget: Budget | None = None,
    stage: Callable[[str], None] = lambda _name: None,
) -> SectionInput:
    """Run one forward and one backward pass and read both.

    Args:
        subject: the pass to run.
        settings: the request.
        device: the device of model and batch.
        custom_loss: a function of (output, target) in place of the request's loss; see `FixedLoss`.
        budget: the time left for the sections; None for no limit.
        stage: called with "forward" and "backward" when they begin.

    Raises:
        InspectionError: as `TracedPass.run` does.
    """
    keep_freed_memory()
    parameters = ParameterIndex(subject.model)
    loss_of = FixedLoss(subject.batch, settings, custom_loss, device=device, seed=subject.seed)
    step = steps_of(settings.optimizer).first_step() if settings.optimizer is not None else None

    def read(first_step: FirstStep | None, on_stage: Callable[[str], None]) -> PassReading:
        with left_as_found(subject.model, settings.mode), seeded(subject.seed, device):
            return TracedPass(
                subject.model, parameters, subject.batch.inputs, loss_of, first_step=first_step, on_stage=on_stage,
                casting=casting(settings.precision, device), loss_scale=_loss_scale(parameters, settings),
            ).run()  # fmt: skip

    started, started_cpu = time.perf_counter(), time.thread_time()
    reading = read(step, stage)
    seconds, cpu_seconds = time.perf_counter() - started, time.thread_time() - started_cpu
    if len(reading.calls) > MAX_LAYERS:
        raise InspectionError(
            "invalid_model",
            f"the model makes {len(reading.calls):,} layer calls; a report holds at most {MAX_LAYERS:,}",
        )
    return SectionInput(
        model=subject.model,
        parameters=parameters,
        batch=subject.batch,
        loss_of=loss_of,
        target=loss_of.target,
        loss_between=loss_of.between,
        part_of=loss_of.part_of,
        terms_of=loss_of.terms,
        terms=loss_of.first_values,
        heads=loss_of.heads,
        settings=settings,
        reading=reading,
        names=name_calls(reading.calls, parameters),
        opened=read_opened(reading, parameters, lambda: read(None, lambda _name: None)),
        seed=subject.seed,
        device=device,
        pass_seconds=seconds,
        pass_cpu_seconds=cpu_seconds,
        budget=budget or Budget(None),
        rebuild=subject.rebuild,
        has_named_loss=custom_loss is None,
    )


def _loss_scale(parameters: ParameterIndex, settings: InspectionSettings) -> float:
    """Return the declared scale where gradients are in half precision; elsewhere it would be divided out again."""
    halved = settings.precision.compute in HALF or any(entry.tensor.dtype in HALF.values() for entry in parameters)
    return settings.precision.loss_scale if halved else 1.0
