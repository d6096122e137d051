"""adam: every element's step is divided by the running size of its own gradient (Kingma and Ba 2015)."""

from __future__ import annotations

CENTRE = 3e-3  # chosen: the search then covers 3e-6 … 0.1 around torch's default of 1e-3


def adam_code(base_lr: float) -> str:
    """Source of the optimizer for `model`."""
    return f"import torch\n\noptimizer = torch.optim.Adam(model.parameters(), lr={base_lr!r})\n"
