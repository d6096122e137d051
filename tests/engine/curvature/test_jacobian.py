"""The input-output Jacobian compared with known matrices, and with the spectrum of random products."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradinspect.contracts.report.sections import Jacobian
from gradinspect.engine.curvature import jacobian
from gradinspect.engine.curvature.jacobian import jacobian_section
from gradinspect.engine.first_order.context import SectionInput
from tests.support.networks.sample_models import TOKENS, build
from tests.support.networks.section_inputs import mlp, normal, scripted, section_input


def measured(s: SectionInput) -> Jacobian:
    section = jacobian_section(s).section
    assert isinstance(section, Jacobian)
    return section


def chain(*matrices: torch.Tensor) -> nn.Module:
    layers = [nn.Linear(m.shape[1], m.shape[0], bias=False).double() for m in matrices]
    with torch.no_grad():
        for layer, matrix in zip(layers, matrices, strict=True):
            layer.weight.copy_(matrix)
    return nn.Sequential(*layers)


def test_a_linear_map_has_the_singular_values_of_its_matrix() -> None:
    matrix = normal(5, 8)
    section = measured(section_input(chain(matrix), normal(4, 8, seed=1), normal(4, 5, seed=2)))
    values = torch.linalg.svdvals(matrix)
    assert section.largest == pytest.approx(float(values[0]), rel=1e-12)
    assert section.smallest == pytest.approx(float(values[-1]), rel=1e-12)
    assert section.mean_square == pytest.approx(float(values.square().mean()), rel=1e-12)
    assert section.samples == 4


def test_a_map_to_more_outputs_than_inputs_is_written_out_by_columns() -> None:
    matrix = normal(8, 3)
    section = measured(section_input(chain(matrix), normal(4, 3, seed=1), normal(4, 8, seed=2)))
    values = torch.linalg.svdvals(matrix)
    assert section.smallest == pytest.approx(float(values[-1]), rel=1e-12)
    assert section.mean_square == pytest.approx(float(values.square().mean()), rel=1e-12)


def test_orthogonal_layers_have_singular_values_of_one() -> None:
    matrices = [torch.linalg.qr(normal(12, 12, seed=seed))[0] for seed in range(6)]
    section = measured(section_input(chain(*matrices), normal(3, 12), normal(3, 12, seed=1)))
    assert section.largest == pytest.approx(1.0, rel=1e-12)
    assert section.smallest == pytest.approx(1.0, rel=1e-12)
    assert section.mean_square == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_product_of_gaussian_matrices_has_the_edge_of_its_wide_limit(depth: int) -> None:
    width = 200
    matrices = [normal(width, width, seed=seed) / math.sqrt(width) for seed in range(depth)]
    section = measured(section_input(chain(*matrices), normal(1, width), normal(1, width, seed=1)))
    truth = (depth + 1) ** (depth + 1) / depth**depth
    # At the edge of the spectrum a matrix of width n fluctuates by n^(−2/3), 3 % here, around a mean 1.2 of these low.
    assert section.largest is not None
    assert section.largest**2 == pytest.approx(truth, rel=0.12)


def test_each_sample_has_the_jacobian_at_its_own_point() -> None:
    model = mlp(4, 6, 3)
    x = normal(5, 4)
    section = measured(section_input(model, x, normal(5, 3, seed=1)))
    values = torch.stack([torch.linalg.svdvals(torch.func.jacrev(model)(row)) for row in x]).detach()
    assert section.largest == pytest.approx(float(values.max()), rel=1e-12)
    assert section.smallest == pytest.approx(float(values.min()), rel=1e-12)
    assert section.mean_square == pytest.approx(float(values.square().mean()), rel=1e-12)


def test_a_torchscript_file_has_the_jacobian_of_its_eager_model() -> None:
    model, inputs = build("cnn with group norm")
    eager = measured(section_input(model, inputs, normal(6, 3, seed=9)))
    loaded = measured(section_input(scripted(model), inputs, normal(6, 3, seed=9)))
    assert loaded.largest == pytest.approx(eager.largest, rel=1e-10)
    assert loaded.smallest == pytest.approx(eager.smallest, rel=1e-10)


def test_a_jacobian_too_large_to_write_out_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = normal(30, 20) @ torch.diag(torch.linspace(0.1, 2, 20, dtype=torch.float64))
    s = section_input(chain(matrix), normal(8, 20, seed=1), normal(8, 30, seed=2))
    exact = measured(s)
    monkeypatch.setattr(jacobian, "WRITTEN_OUT", 10)
    probed = measured(s)
    assert probed.smallest is None
    assert "smallest" in str(probed.reason)
    assert probed.largest == pytest.approx(exact.largest, rel=1e-4)
    # 32 probes of 8 samples: 256 draws with a relative spread under √(2·Σσ⁴)/Σσ² < 0.6 each; 5 standard errors.
    assert probed.mean_square == pytest.approx(exact.mean_square, rel=5 * 0.6 / math.sqrt(256))


def test_samples_that_mix_have_no_jacobian_each() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    x, y = normal(8, 4), normal(8, 3, seed=1)
    section = measured(section_input(model, x, y))
    assert section.status == "undetermined"
    assert "samples mix" in str(section.reason)
    assert measured(section_input(model, x, y, mode="eval")).status == "measured"


def test_an_integer_input_has_no_jacobian() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(20, 3)).double()
    section = measured(section_input(model, TOKENS, normal(6, 3, seed=1)))
    assert section.reason == "the input holds integers; there is no derivative with respect to them"


def test_a_spent_budget_leaves_the_jacobian_undetermined() -> None:
    section = measured(section_input(mlp(4, 3), normal(6, 4), normal(6, 3, seed=1), budget=0.0))
    assert str(section.reason).startswith("budget: needs about ")


def test_the_inputs_do_not_require_a_gradient_afterwards() -> None:
    x = normal(6, 4)
    measured(section_input(mlp(4, 3), x, normal(6, 3, seed=1)))
    assert not x.requires_grad
    assert x.grad is None


@pytest.mark.parametrize("room", [0, -1])
def test_a_jacobian_is_written_out_up_to_the_limit_of_its_bytes(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jacobian, "WRITTEN_BYTES", 4 * 5 * 8 * 8 + room)  # samples, outputs, inputs, bytes of a float64
    section = measured(section_input(chain(normal(5, 8)), normal(4, 8, seed=1), normal(4, 5, seed=2)))
    assert (section.smallest is not None) is (room == 0)
