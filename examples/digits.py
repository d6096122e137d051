"""A real batch: handwritten digits from scikit-learn, as a safetensors file that an inspection can read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

SPEC = Path(__file__).with_name("digits_mlp.json")


def write_batch(path: Path, *, samples: int = 512) -> Path:
    """Write `x` (samples, 64), pixels in [0, 1], and `y` (samples,), the digits; returns `path`."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))[:samples]
    save_file(
        {"x": (digits.data[order] / 16).astype(np.float32), "y": digits.target[order].astype(np.int64)}, path
    )  # fmt: skip
    return path


if __name__ == "__main__":
    print(write_batch(Path("digits.safetensors")))
