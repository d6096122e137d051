"""How a request's compute precision is met: weights in float32 or float64, half precision by autocast over them.

Mixed-precision training keeps float32 weights and casts per operation; a model that is cast as a whole would measure
something that nobody trains. A model that arrives in half precision is left as it is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from gradinspect.contracts.request.request import Precision
from gradinspect.contracts.spec.tensors import FloatType

HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
WHOLE = {"float32": torch.float32, "float64": torch.float64}


def weight_dtype(compute: FloatType | None) -> torch.dtype | None:
    """The dtype that floating-point weights and inputs are converted to; None to leave them as they are."""
    return WHOLE.get(compute) if compute is not None else None


def casting(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Autocast for a forward pass or a loss, where half precision is asked for.

    Casts are not cached between operations: sections move parameters in place, and a cache would keep the old values.
    """
    if precision.compute in HALF:
        return torch.autocast(device.type, dtype=HALF[precision.compute], cache_enabled=False)
    return nullcontext()
