"""The compute precision of a request: weights in float32 or float64, half precision by autocast over them.

Mixed-precision training keeps float32 weights and casts per operation, so casting the whole model would measure
something else than what is trained. A model that is in half precision already is not changed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from gradinspect.contracts.request.request import Precision
from gradinspect.contracts.spec.tensors import FloatType

HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
WHOLE = {"float32": torch.float32, "float64": torch.float64}


def weight_dtype(compute: FloatType | None) -> torch.dtype | None:
    """Return the dtype to which floating-point weights and inputs are converted; None to leave them unchanged."""
    return WHOLE.get(compute) if compute is not None else None


def casting(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the autocast context of a forward pass or loss; it does nothing unless half precision is requested.

    Casts are not cached between operations: sections move parameters in place, and a cache would hold old values.
    """
    if precision.compute in HALF:
        return torch.autocast(device.type, dtype=HALF[precision.compute], cache_enabled=False)
    return nullcontext()
