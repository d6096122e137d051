"""When a Lanczos vector is orthogonalised again, and how well."""

from __future__ import annotations

import torch

from gradinspect.engine.curvature.lanczos import reorthogonalise

BASIS = torch.eye(3, dtype=torch.float64)[:1]


def test_an_overlap_above_the_root_of_the_rounding_unit_is_subtracted() -> None:
    image = torch.tensor([1e-7, 1.0, 0.0], dtype=torch.float64)
    reorthogonalise(image, BASIS)
    assert float(image[0]) == 0.0


def test_a_smaller_overlap_is_left_since_it_costs_no_accuracy() -> None:
    image = torch.tensor([1e-9, 1.0, 0.0], dtype=torch.float64)
    reorthogonalise(image, BASIS)
    assert float(image[0]) == 1e-9
