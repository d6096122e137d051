"""Lanczos on known spectra, with the whole basis and with the last vectors only."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gradinspect.engine.curvature.lanczos import WHOLE_BASIS_BYTES, random_start, top_eigenvalue
from tests.support.networks.section_inputs import normal


def product_with(matrix: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], object]:
    return lambda v, out: out.copy_(matrix @ v if matrix.dim() == 2 else matrix * v)


@pytest.mark.parametrize("whole_basis_bytes", [0, WHOLE_BASIS_BYTES], ids=["the last vectors", "the whole basis"])
def test_lanczos_finds_the_largest_eigenvalue_and_not_the_largest_magnitude(whole_basis_bytes: int) -> None:
    values = torch.linspace(-50, 3, 40, dtype=torch.float64)
    basis, _ = torch.linalg.qr(normal(40, 40))
    matrix = basis @ torch.diag(values) @ basis.T
    found = top_eigenvalue(
        product_with(matrix), normal(40, seed=1), max_products=80, tolerance=1e-10, whole_basis_bytes=whole_basis_bytes
    )
    assert found.value == pytest.approx(3.0, rel=1e-9)


@pytest.mark.parametrize("whole_basis_bytes", [0, WHOLE_BASIS_BYTES], ids=["the last vectors", "the whole basis"])
def test_an_eigenvalue_is_within_the_residual_of_the_ritz_value(whole_basis_bytes: int) -> None:
    diagonal = torch.arange(1.0, 101.0, dtype=torch.float64)
    found = top_eigenvalue(
        product_with(diagonal), normal(100, seed=1), max_products=8, tolerance=0.0, whole_basis_bytes=whole_basis_bytes
    )
    assert found.products == 8
    # An eigenvalue lies within the residual of the Ritz value, which never exceeds the largest one.
    assert 0 < 100 - found.value <= found.residual


SPECTRA = {
    "one large eigenvalue": torch.cat([torch.tensor([1e4]), torch.linspace(0, 1, 199)]),
    # Products are nearly in the span of earlier vectors, so that one projection leaves its own rounding in.
    "eigenvalues of all magnitudes": 1e4 * 10.0 ** (-torch.arange(200.0) / 8),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_lanczos_keeps_its_vectors_orthogonal_in_float32(name: str) -> None:
    diagonal = SPECTRA[name]
    seen: list[torch.Tensor] = []

    def product(v: torch.Tensor, out: torch.Tensor) -> None:
        seen.append(v.clone())
        out.copy_(diagonal * v)

    found = top_eigenvalue(product, normal(200, seed=1).float(), max_products=40, tolerance=-1.0)  # never converges
    basis = torch.stack(seen).double()
    assert len(seen) > 10
    # Overlaps up to √eps may remain; the recurrence alone brings the first eigenvector back in full.
    overlaps = (basis @ basis.T - torch.eye(len(seen), dtype=torch.float64)).abs()
    assert float(overlaps.max()) < 2 * torch.finfo(torch.float32).eps ** 0.5
    assert found.value == pytest.approx(1e4, rel=1e-6)


def test_the_largest_eigenvalue_is_right_although_the_last_vectors_lose_their_orthogonality() -> None:
    diagonal = torch.cat(
        [torch.tensor([-1e4, 1e2]), torch.linspace(0, 1, 198)]
    )  # the lowest converges first, and returns
    seen: list[torch.Tensor] = []

    def product(v: torch.Tensor, out: torch.Tensor) -> None:
        seen.append(v.clone())
        out.copy_(diagonal * v)

    found = top_eigenvalue(product, normal(200, seed=1).float(), max_products=40, tolerance=-1.0, whole_basis_bytes=0)
    basis = torch.stack(seen).double()
    overlaps = (basis @ basis.T - torch.eye(len(seen), dtype=torch.float64)).abs()
    assert float(overlaps.max()) > 0.5, "the recurrence alone was meant to lose orthogonality on this spectrum"
    # Roundings are relative to the largest magnitude: 1e4·eps, times a few for 40 steps.
    assert found.value == pytest.approx(1e2, abs=1e4 * 40 * torch.finfo(torch.float32).eps)


def test_lanczos_of_a_half_precision_model_keeps_its_vectors_in_float32() -> None:
    like = torch.zeros((), dtype=torch.bfloat16)
    start = random_start(4096, torch.Generator().manual_seed(0), like)
    assert start.dtype is torch.float32
    diagonal = 100 * torch.arange(1.0, 4097.0).pow(-1.5)
    found = top_eigenvalue(product_with(diagonal), start, max_products=30, tolerance=1e-3, whole_basis_bytes=0)
    assert found.value == pytest.approx(100.0, rel=1e-3)


def test_lanczos_needs_memory_for_three_large_vectors() -> None:
    addresses: set[int] = set()

    def product(v: torch.Tensor, out: torch.Tensor) -> None:
        addresses.update((v.data_ptr(), out.data_ptr()))
        out.copy_(torch.arange(1.0, 101.0) * v)

    found = top_eigenvalue(product, normal(100, seed=1).float(), max_products=9, tolerance=0.0, whole_basis_bytes=0)
    assert found.products == 9
    assert len(addresses) == 3
