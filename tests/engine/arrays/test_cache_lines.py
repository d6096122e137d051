"""Samples of large tensors are read in whole cache lines."""

from __future__ import annotations

import torch

from gradinspect.engine.arrays.distributions import strided_chunks


def test_a_sample_is_made_of_runs_of_sixteen_elements_that_begin_at_multiples_of_sixteen() -> None:
    runs = strided_chunks(torch.arange(1600), 160).reshape(-1, 16)
    assert len(runs) > 5
    assert (runs[:, 0] % 16 == 0).all()
    assert (runs == runs[:, :1] + torch.arange(16)).all()
