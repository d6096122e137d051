"""Repetitions of the first pass with the same random draws, through kernels that have the derivatives needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradinspect.contracts.problems import InspectionError
from gradinspect.engine.autograd import RightSecondDerivatives
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.autocast import casting
from gradinspect.engine.network.outputs import ModelOutput
from gradinspect.engine.network.reproducible import left_as_found, ordinary_graphs, seeded
from gradinspect.engine.tracing.operator_names import ATEN_FUSED_RECURRENT

# Fused recurrent kernels: one autograd node for all time steps, without forward mode and without a second derivative.


def output_of(s: SectionInput) -> ModelOutput:
    """Compute what the loss read in the first pass, with the same dropout masks. Call it inside `replaying`."""
    with seeded(s.seed, s.device):
        return run_model(s, s.batch.inputs)


def run_model(s: SectionInput, inputs: Sequence[torch.Tensor]) -> ModelOutput:
    """Compute what the loss reads of the model's output, for any inputs, in the precision of the first pass."""
    with casting(s.settings.precision, s.device):
        return s.part_of(s.model(*inputs))


def only_tensor(output: ModelOutput) -> torch.Tensor:
    """Return an output that is one tensor.

    Raises:
        InspectionError: `data_mismatch` for any other, with which a section that differentiates the output is left out.
    """
    if isinstance(output, torch.Tensor):
        return output
    raise InspectionError(
        "data_mismatch", "the loss reads several outputs of the model, and this needs a single tensor"
    )


@contextmanager
def replaying(s: SectionInput) -> Iterator[None]:
    """Set up any number of runs of the model in its mode; buffers and global switches are restored afterwards.

    Fused recurrent layers run step by step, so that each step has its nodes and second derivatives. Only models that
    have such layers pay for it: without oneDNN convolutions are slower too.
    """
    with ExitStack() as stack:
        stack.enter_context(left_as_found(s.model, s.settings.mode))
        stack.enter_context(ordinary_graphs())
        if any(call.operation in ATEN_FUSED_RECURRENT for call in s.reading.calls):
            stack.enter_context(_switched_off(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled))
            stack.enter_context(_switched_off(torch._C._get_cudnn_enabled, torch._C._set_cudnn_enabled))
        yield


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Use kernels with correct second derivatives.

    Attention's flash and memory-efficient kernels have a first derivative only; the fused kernel of weight
    normalisation has a wrong second one.
    """
    with sdpa_kernel(SDPBackend.MATH), RightSecondDerivatives():
        yield


@contextmanager
def _switched_off(read: Callable[[], bool], write: Callable[[bool], None]) -> Iterator[None]:
    """Switch one flag off; the `flags` contexts of torch.backends also write others, and warn about those."""
    before = read()
    write(False)
    try:
        yield
    finally:
        write(before)
