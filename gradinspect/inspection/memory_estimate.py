"""The memory that a spec will need at its batch size, estimated from its plan before any tensor is made."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.request.data import ArtifactData, Data
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.plan import Call
from gradinspect.engine.network.batch import DEFAULT_SAMPLES

DRAWN_BYTES = 4  # parameters are drawn in float32 and then cast


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that one forward and backward pass holds at its peak.

    Attributes:
        parameters: elements, shared ones once.
        item_bytes: bytes of one element.
        sample_bytes: what autograd keeps for one sample, and the sample itself.
        samples: the batch.
    """

    parameters: int
    item_bytes: int
    sample_bytes: int
    samples: int

    @property
    def fixed_bytes(self) -> int:
        """Return the size of the parameters, and of their gradients or their float32 draws, whichever is larger."""
        return self.parameters * (self.item_bytes + max(self.item_bytes, DRAWN_BYTES))

    @property
    def total_bytes(self) -> int:
        """Return the size of everything."""
        return self.fixed_bytes + self.samples * self.sample_bytes

    def samples_within(self, limit_bytes: int) -> int:
        """Return the largest batch that fits into a limit; 0 when the model alone does not."""
        return max(0, limit_bytes - self.fixed_bytes) // max(1, self.sample_bytes)


def memory_need(spec: ModelSpec, *, samples: int, dtype: torch.dtype) -> MemoryNeed:
    """Add up what a pass needs.

    Args:
        spec: the network.
        samples: the batch size.
        dtype: of parameters and activations.

    Returns:
        An estimate: exact for most layers, rough inside recurrent and attention layers; without torch itself
        (about 300 MB), the allocator's waste and a convolution's workspace.
    """
    calls = list(spec.plan.calls())
    saved = sum(step.saved if isinstance(step, Call) else prod(step.output_shape) for step in calls)
    entering = prod(spec.input.shape) * (dtype.itemsize if not spec.input.holds_tokens else 8)
    return MemoryNeed(spec.plan.parameters, dtype.itemsize, saved * dtype.itemsize + entering, samples)


def require_memory(spec: ModelSpec, *, samples: int, dtype: torch.dtype, limit_bytes: int) -> None:
    """Refuse a spec that cannot fit.

    Raises:
        InspectionError: `memory_limit`, with the bytes needed, the limit and the batch that would fit.
    """
    need = memory_need(spec, samples=samples, dtype=dtype)
    if need.total_bytes <= limit_bytes:
        return
    fitting = need.samples_within(limit_bytes)
    why = (
        f"a batch of {fitting} would fit"
        if fitting
        else f"its {need.parameters} parameters and their gradients alone need {_shown(need.fixed_bytes)}"
        if need.fixed_bytes > limit_bytes
        else f"a single sample needs {_shown(need.sample_bytes)} of activations"
    )
    raise InspectionError(
        "memory_limit",
        f"a batch of {samples} needs about {_shown(need.total_bytes)} for parameters, gradients and activations, and "
        f"the limit is {_shown(limit_bytes)}; {why}",
    )


def batch_size(data: Data | None, tensors: dict[str, torch.Tensor] | None) -> int:
    """Return the number of samples in a request's data; 0 where it cannot be read from the tensors."""
    if isinstance(data, ArtifactData):
        read = (tensors or {}).get(data.inputs[0])
        return read.shape[0] if read is not None and read.dim() else 0
    if data is None:
        return DEFAULT_SAMPLES
    return data.inputs[0].shape[0] if data.inputs is not None else data.samples or DEFAULT_SAMPLES


def _shown(count: int) -> str:
    return f"{count} bytes ({count / 2**30:.2f} GiB)" if count >= 2**30 else f"{count} bytes ({count / 2**20:.1f} MiB)"
