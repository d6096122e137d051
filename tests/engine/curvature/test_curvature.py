"""Curvature compared with closed forms and explicit Hessians, in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from gradinspect.contracts.report.sections import Curvature
from gradinspect.engine.curvature.curvature import curvature_section
from gradinspect.engine.curvature.hessian import HessianProducts
from gradinspect.engine.curvature.whole_hessian import PROBES
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import replaying
from tests.support.networks.hessians import Force, curvature, flat, product_of, span
from tests.support.networks.sample_models import build
from tests.support.networks.section_inputs import explicit_hessian, mlp, normal, residual, scripted, section_input


def linear_map(outputs: int = 3) -> tuple[SectionInput, torch.Tensor]:
    x = normal(20, 5) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    model = nn.Linear(5, outputs, bias=False).double()
    return section_input(model, x, normal(20, outputs, seed=1)), x.T @ x / 20


def test_squared_error_of_a_linear_map_has_its_known_top_eigenvalue() -> None:
    s, second_moment = linear_map()
    section, _ = curvature(s)
    truth = 2 / 3 * float(torch.linalg.eigvalsh(second_moment)[-1])
    # A residual r leaves an error of at most r²/gap; r ≤ 1e-3·θ and the gap is over half of θ.
    assert section.top_eigenvalue == pytest.approx(truth, rel=2e-6)
    assert section.top_eigenvalue_residual is not None
    assert section.top_eigenvalue_residual <= 1e-3 * truth


def test_squared_error_of_a_linear_map_has_its_known_trace() -> None:
    s, second_moment = linear_map()
    section, _ = curvature(s)
    truth = 2 * float(second_moment.trace())
    assert section.hessian_trace_stderr is not None
    # 16 probes; 5 standard errors are passed by chance once in 4,000 draws of a t with 15 degrees of freedom.
    assert section.hessian_trace == pytest.approx(truth, abs=5 * section.hessian_trace_stderr)
    assert section.hessian_trace_stderr < truth


def test_a_diagonal_hessian_has_its_trace_from_a_single_probe() -> None:
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    section, result = curvature(section_input(nn.Linear(3, 1, bias=False).double(), x, normal(3, 1)))
    assert section.hessian_trace == pytest.approx(2 * (1 + 4 + 9) / 3, rel=1e-12)
    assert section.hessian_trace_stderr == pytest.approx(0.0, abs=1e-12)
    assert result.parameters["weight"]["hessian_trace"] == pytest.approx(28 / 3, rel=1e-12)


def test_softmax_at_zero_weights_has_its_known_curvature() -> None:
    classes = 4
    x = normal(30, 5)
    model = nn.Linear(5, classes, bias=False).double()
    nn.init.zeros_(model.weight)
    target = torch.arange(30) % classes
    s = section_input(model, x, target, loss="cross_entropy")
    section, _ = curvature(s)
    second_moment = x.T @ x / 30
    top = float(torch.linalg.eigvalsh(second_moment)[-1]) / classes
    # K − 1 equal eigenvalues, and a gap of a few per cent.
    assert section.top_eigenvalue == pytest.approx(top, rel=1e-4)
    trace = (classes - 1) / classes * float(second_moment.trace())
    with replaying(s):
        hessian = HessianProducts(s)
        units = torch.eye(hessian.size, dtype=torch.float64)
        exact = sum(float(unit @ product_of(hessian, unit)) for unit in units)
    assert exact == pytest.approx(trace, rel=1e-12)
    assert section.hessian_trace_stderr is not None
    assert section.hessian_trace == pytest.approx(trace, abs=5 * section.hessian_trace_stderr)


def test_every_number_equals_that_of_the_explicit_hessian() -> None:
    s = section_input(mlp(3, 5, 2), normal(8, 3), normal(8, 2, seed=9))
    with replaying(s):
        H = explicit_hessian(s).detach()
        hessian = HessianProducts(s)
        v = normal(hessian.size, seed=4)
        torch.testing.assert_close(product_of(hessian, v), H @ v, rtol=1e-11, atol=1e-13)
    g = flat(hessian.slopes)
    section, result = curvature(s)
    assert section.curvature_along_gradient == pytest.approx(float(g @ H @ g / (g @ g)), rel=1e-10)
    assert section.top_eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-5)
    assert section.hessian_trace_stderr is not None
    assert section.hessian_trace == pytest.approx(float(H.trace()), abs=5 * section.hessian_trace_stderr)
    for index, entry in enumerate(hessian.entries):
        own = span(hessian, index)
        block, part, row = H[own, own], g[own], result.parameters[entry.name]
        along = float(part @ block @ part / (part @ part))
        assert row["curvature_along_gradient"] == pytest.approx(along, rel=1e-10), entry.name
        assert row["top_eigenvalue"] == pytest.approx(float(torch.linalg.eigvalsh(block)[-1]), rel=1e-5), entry.name


def test_the_numbers_of_a_layer_equal_those_of_its_block() -> None:
    s = section_input(mlp(4, 6, 3), normal(8, 4), normal(8, 3, seed=1))
    with replaying(s):
        H = explicit_hessian(s).detach()
        g = flat(HessianProducts(s).slopes)
    section, result = curvature(s)
    first = slice(0, 4 * 6 + 6)
    row = section.layers[0]
    assert row.layer == "0"
    part = g[first]
    assert row.curvature_along_gradient == pytest.approx(
        float(part @ H[first, first] @ part / (part @ part)), rel=1e-10
    )
    assert row.top_eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(H[first, first])[-1]), rel=1e-4)
    traces = (result.parameters["0.weight"]["hessian_trace"], result.parameters["0.bias"]["hessian_trace"])
    assert row.hessian_trace == pytest.approx(sum(value for value in traces if value is not None), rel=1e-12)
    assert row.reason is None


def test_traces_of_the_layers_add_up_to_that_of_the_model() -> None:
    section, _ = curvature(section_input(mlp(4, 6, 6, 3), normal(8, 4), normal(8, 3, seed=1)))
    parts = [row.hessian_trace for row in section.layers if row.hessian_trace is not None]
    assert math.fsum(parts) == pytest.approx(section.hessian_trace, rel=1e-10)


def test_a_torchscript_file_has_the_curvature_of_its_eager_model() -> None:
    model, inputs = build("mlp")
    eager, _ = curvature(section_input(model, inputs, normal(6, 3, seed=9)))
    loaded, _ = curvature(section_input(scripted(copy.deepcopy(model)), inputs, normal(6, 3, seed=9)))
    assert loaded.curvature_along_gradient == pytest.approx(eager.curvature_along_gradient, rel=1e-9)
    assert loaded.hessian_trace == pytest.approx(eager.hessian_trace, rel=1e-9)
    assert loaded.top_eigenvalue == pytest.approx(eager.top_eigenvalue, rel=1e-6)


class VmappedForce(Force):
    """The same model, differentiated by torch.func."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = -torch.func.vmap(torch.func.grad(lambda point: self.energy(point).sum()))(x)
        return output


@pytest.mark.parametrize("kind", [Force, VmappedForce])
def test_a_model_that_differentiates_itself_has_the_curvature_of_its_explicit_hessian(kind: type[Force]) -> None:
    torch.manual_seed(0)
    s = section_input(kind().double(), normal(6, 4), normal(6, 4, seed=1))
    section, _ = curvature(s)
    assert section.status == "measured", section.reason
    with replaying(s):
        H = explicit_hessian(s).detach()
    assert section.top_eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-5)


def test_curvature_is_the_same_under_no_grad() -> None:
    s = section_input(mlp(4, 6, 3), normal(8, 4), normal(8, 3, seed=1))
    expected, _ = curvature(s)
    with torch.no_grad():
        found, _ = curvature(s)
    assert found == expected


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
def test_curvature_under_autocast_is_close_to_that_in_float32(compute: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 3))
    x, y = normal(8, 16, dtype=torch.float32), torch.arange(8) % 3
    full, _ = curvature(section_input(model, x, y, loss="cross_entropy"))
    half, _ = curvature(section_input(model, x, y, loss="cross_entropy", precision={"compute": compute}))
    assert half.status == "measured", half.reason
    assert full.hessian_trace is not None
    assert half.hessian_trace == pytest.approx(full.hessian_trace, rel=0.1)  # the same probes; products of eight bits


def test_a_product_that_is_not_finite_leaves_the_other_numbers_in_place() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.abs().pow(1.5)  # at 0 its slope is 0 and its curvature is not finite

    section, _ = curvature(section_input(Broken(), normal(6, 2), normal(6, seed=1)))
    assert section.status == "measured"
    assert section.top_eigenvalue is None
    assert "top_eigenvalue: a product with the Hessian is not finite" in (section.reason or "")


class Distances(nn.Module):
    """Distances to learned centres, which torch can differentiate only once."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(normal(30, 4, seed=2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(x, self.centres, p=3.0)


def test_an_operator_without_a_second_derivative_is_named() -> None:
    from gradinspect.inspection.sections import planned_sections, run_section

    s = section_input(Distances(), normal(6, 4), normal(6, 30, seed=1), diagnostics=("curvature",))
    planned = next(each for each in planned_sections(s.settings) if each.record.name == "curvature")
    section = run_section(planned, s).section
    assert isinstance(section, Curvature)
    assert section.status == "undetermined"
    assert section.reason == "the operator _cdist_backward has no second derivative in torch"


def test_a_gradient_that_does_not_depend_on_the_parameters_has_no_curvature() -> None:
    section, _ = curvature(section_input(mlp(4, 3), normal(6, 4), loss="output_mean"))
    assert section.hessian_trace == 0.0
    assert section.top_eigenvalue == 0.0
    assert section.curvature_along_gradient == 0.0


class Diagonal(nn.Module):
    """Multiplies its input by a vector; with the loss below its Hessian is diagonal."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def test_a_layers_eigenvalue_is_reported_only_where_lanczos_converged() -> None:
    # Eigenvalues 0.03 apart in a spectrum 31 wide: 30 steps leave a residual of 13 %.
    eigenvalues = torch.linspace(-30, 1, 1000, dtype=torch.float64)
    s = section_input(
        Diagonal(1000),
        torch.ones(1, 1000, dtype=torch.float64),
        custom_loss=lambda o, _t: (o**2 @ eigenvalues).sum() / 2,
    )
    section, result = curvature(s)
    (row,) = section.layers
    assert row.top_eigenvalue is None
    assert row.reason == "Lanczos did not settle in 30 steps"
    assert result.parameters["weight"]["top_eigenvalue"] is None
    assert section.top_eigenvalue is not None, "the model's own value is reported with its residual"
    assert section.top_eigenvalue_residual is not None
    assert 0.05 < section.top_eigenvalue_residual / section.top_eigenvalue < 0.5


def test_a_rescaled_loss_scales_every_curvature() -> None:
    x, y = normal(8, 4), normal(8, 3, seed=1)
    plain, _ = curvature(section_input(mlp(4, 6, 3), x, y))
    scaled, _ = curvature(
        section_input(mlp(4, 6, 3), x, y, custom_loss=lambda o, t: 1e-3 * residual(o, t).square().mean())
    )
    for name in ("hessian_trace", "hessian_trace_stderr", "curvature_along_gradient", "top_eigenvalue"):
        assert getattr(scaled, name) == pytest.approx(1e-3 * getattr(plain, name), rel=1e-9), name


def test_measuring_changes_neither_the_model_nor_the_random_state() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    s = section_input(model, normal(8, 4), normal(8, 3, seed=1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    curvature_section(s)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_spent_budget_leaves_curvature_undetermined() -> None:
    section, _ = curvature(section_input(mlp(4, 3), normal(6, 4), normal(6, 3, seed=1), budget=0.0))
    assert section.status == "undetermined"
    assert str(section.reason).startswith("budget: needs about ")


def test_the_number_of_products_is_reported() -> None:
    s, _ = linear_map()
    section, _ = curvature(s)
    assert section.products >= 1 + PROBES + 3
