"""Curvature against closed forms and explicit Hessians, all in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.report.sections import Curvature
from gradinspect.engine.curvature.curvature import PROBES, curvature_section
from gradinspect.engine.curvature.hessian import HessianProducts
from gradinspect.engine.curvature.hutchinson import signs, trace_of
from gradinspect.engine.curvature.lanczos import WHOLE_BASIS_BYTES, random_start, top_eigenvalue
from gradinspect.engine.curvature.symmetry import contradiction, paired_product
from gradinspect.engine.first_order.context import SectionInput, SectionResult
from gradinspect.engine.first_order.replay import replaying, twice_differentiable
from gradinspect.engine.network.swap import swapped
from tests.support.sample_models import MODELS, TRANSFORMER, build
from tests.support.section_inputs import explicit_hessian, mlp, normal, scripted, section_input


def curvature(s: SectionInput) -> tuple[Curvature, SectionResult]:
    result = curvature_section(s)
    assert isinstance(result.section, Curvature)
    return result.section, result


def flat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def product_of(hessian: HessianProducts, v: torch.Tensor, block: Sequence[int] | None = None) -> torch.Tensor:
    out = torch.full_like(v, math.nan)
    hessian.block_product(v, out, hessian.everything if block is None else block)
    return out


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
    assert section.top_eigenvalue == pytest.approx(
        top, rel=1e-4
    )  # K − 1 equal eigenvalues, and a gap of a few per cent
    trace = (classes - 1) / classes * float(second_moment.trace())
    with replaying(s):
        hessian = HessianProducts(s)
        units = torch.eye(hessian.size, dtype=torch.float64)
        exact = sum(float(unit @ product_of(hessian, unit)) for unit in units)
    assert exact == pytest.approx(trace, rel=1e-12)
    assert section.hessian_trace_stderr is not None
    assert section.hessian_trace == pytest.approx(trace, abs=5 * section.hessian_trace_stderr)


def test_every_number_is_that_of_the_explicit_hessian() -> None:
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
        place = hessian.place(index)
        block, part, row = H[place, place], g[place], result.parameters[entry.name]
        along = float(part @ block @ part / (part @ part))
        assert row["curvature_along_gradient"] == pytest.approx(along, rel=1e-10), entry.name
        assert row["top_eigenvalue"] == pytest.approx(float(torch.linalg.eigvalsh(block)[-1]), rel=1e-5), entry.name


@pytest.mark.parametrize(
    "name", ["cnn with group norm", "attention", "lstm", "repeated layer", "weight norm", TRANSFORMER]
)
def test_products_are_the_slope_of_the_gradient(name: str) -> None:
    model, inputs = build(name)
    s = section_input(model, inputs, normal(6, 7 if name == TRANSFORMER else 3, seed=9))
    with replaying(s), twice_differentiable():
        hessian = HessianProducts(s)
        v = normal(hessian.size, seed=4)
        product = product_of(hessian, v)
    step = 1e-5 / float(v.norm())

    def gradient(sign: float) -> torch.Tensor:
        moved = {
            entry: entry.tensor.detach() + sign * step * v[hessian.place(place)].view_as(entry.tensor)
            for place, entry in enumerate(hessian.entries)
        }
        with replaying(s), swapped(s.model, {e: value.requires_grad_() for e, value in moved.items()}):
            return torch.cat(
                [part.reshape(-1) for part in torch.autograd.grad(s.loss_of(s.model(inputs)), [*moved.values()])]
            )

    slope = (gradient(1.0) - gradient(-1.0)) / (2 * step)
    # Truncation 1e-10 and rounding 1e-16/1e-5 relative to gradients of the size of the product.
    assert float((product - slope).norm() / slope.norm()) < 1e-6


def test_block_products_are_blocks_of_the_hessian() -> None:
    s = section_input(mlp(3, 5, 2), normal(8, 3), normal(8, 2, seed=9))
    with replaying(s):
        H = explicit_hessian(s).detach()
        hessian = HessianProducts(s)
        chosen = torch.cat([torch.arange(hessian.size)[hessian.place(place)] for place in (1, 2)])
        v = normal(len(chosen), seed=5)
        expected = H[chosen][:, chosen] @ v
        torch.testing.assert_close(product_of(hessian, v, [1, 2]), expected, rtol=1e-11, atol=1e-13)


def test_a_layers_numbers_are_those_of_its_block() -> None:
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


def test_traces_of_the_layers_add_up_to_the_whole() -> None:
    section, _ = curvature(section_input(mlp(4, 6, 6, 3), normal(8, 4), normal(8, 3, seed=1)))
    parts = [row.hessian_trace for row in section.layers if row.hessian_trace is not None]
    assert math.fsum(parts) == pytest.approx(section.hessian_trace, rel=1e-10)


def test_a_torchscript_file_bends_as_its_eager_model_does() -> None:
    model, inputs = build("mlp")
    eager, _ = curvature(section_input(model, inputs, normal(6, 3, seed=9)))
    loaded, _ = curvature(section_input(scripted(copy.deepcopy(model)), inputs, normal(6, 3, seed=9)))
    assert loaded.curvature_along_gradient == pytest.approx(eager.curvature_along_gradient, rel=1e-9)
    assert loaded.hessian_trace == pytest.approx(eager.hessian_trace, rel=1e-9)
    assert loaded.top_eigenvalue == pytest.approx(eager.top_eigenvalue, rel=1e-6)


class Tied(nn.Module):
    """A token's vector is also its row of the output."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 4, sparse=sparse)
        self.mix = nn.Linear(4, 4)
        self.out = nn.Linear(4, 7)
        self.out.weight = self.tokens.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.mix(self.tokens(tokens)))).mean(1)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_parts_of_a_tied_weight_are_added_up(sparse: bool) -> None:
    torch.manual_seed(0)
    model, tokens = Tied(sparse=sparse).double(), torch.arange(15).reshape(5, 3) % 7
    target = normal(5, 7, seed=1)
    twice = copy.deepcopy(model)
    twice.out.weight = nn.Parameter(twice.tokens.weight.detach())  # two objects over one memory
    for subject in (model, twice, scripted(copy.deepcopy(model))):
        s = section_input(subject, tokens, target)
        with replaying(s):
            hessian = HessianProducts(s)
            v = normal(hessian.size, seed=4)
            found = product_of(hessian, v)
            inner = hessian.inner(torch.split(v, hessian.sizes), hessian.everything)
        plain = section_input(_dense(model), tokens, target)
        with replaying(plain):
            truth = explicit_hessian(plain).detach() @ v
        torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)
        parts = [float(v[hessian.place(place)] @ truth[hessian.place(place)]) for place in hessian.everything]
        assert inner == pytest.approx(parts, rel=1e-10, abs=1e-12)


def _dense(model: Tied) -> Tied:
    dense = Tied(sparse=False).double()
    dense.load_state_dict(model.state_dict())
    return dense


FLAT_ENDS = {
    "convolutions": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "layer norm": lambda: nn.Sequential(nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
}


@pytest.mark.parametrize("loss", ["output_mean", "random_cotangent"])
@pytest.mark.parametrize("name", FLAT_ENDS)
def test_a_loss_without_a_bend_leaves_parts_of_the_product_unreached(name: str, loss: str) -> None:
    torch.manual_seed(0)
    s = section_input(FLAT_ENDS[name]().double(), normal(4, 3, 6, 6), loss=loss)
    with replaying(s), twice_differentiable():
        hessian = HessianProducts(s)
        v = normal(hessian.size, seed=4)
        torch.testing.assert_close(product_of(hessian, v), explicit_hessian(s).detach() @ v, rtol=1e-10, atol=1e-12)
    section, _ = curvature(s)
    assert section.status == "measured"
    assert section.hessian_trace is not None


class Force(nn.Module):
    """Minus the slope of a learned energy: a model that differentiates itself."""

    def __init__(self, *normalised: nn.Module) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 6), nn.GELU(), *normalised, nn.Linear(6, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        point = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.energy(point).sum(), point, create_graph=True)
        return -slope


class VmappedForce(Force):
    """The same by torch.func."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -torch.func.vmap(torch.func.grad(lambda point: self.energy(point).sum()))(x)


@pytest.mark.parametrize("kind", [Force, VmappedForce])
def test_a_model_that_differentiates_itself_has_its_curvature(kind: type[Force]) -> None:
    torch.manual_seed(0)
    s = section_input(kind().double(), normal(6, 4), normal(6, 4, seed=1))
    section, _ = curvature(s)
    assert section.status == "measured", section.reason
    with replaying(s):
        H = explicit_hessian(s).detach()
    assert section.top_eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_hessians_of_ordinary_models_are_symmetric(name: str) -> None:
    model, inputs = build(name)
    with torch.no_grad():
        output = model(inputs)
    s = section_input(model, inputs, normal(*output.shape, seed=9))
    with replaying(s), twice_differentiable():
        hessian = HessianProducts(s)
        draws = torch.Generator().manual_seed(1)
        u, v = (torch.split(signs(hessian.size, draws, hessian.slopes[0]), hessian.sizes) for _ in range(2))
        pair = [paired_product(hessian, u, v), paired_product(hessian, v, u)]
    length = math.hypot(*(product.square**0.5 for product in pair))
    # Roundings of 2⁻⁵³ in sums of some thousand terms.
    assert abs(pair[0].crossed - pair[1].crossed) < 1e-12 * length
    assert pair[0].inner == pytest.approx(hessian.inner(u, hessian.everything), rel=1e-12)
    assert contradiction(s, hessian, pair) is None


class ScriptedWeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v, self.g = nn.Parameter(normal(3, 4)), nn.Parameter(normal(3, 1).abs())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ torch._weight_norm(self.v, self.g, 0).T)


def test_torchs_fused_weight_norm_is_replaced_and_where_it_cannot_be_its_error_is_seen() -> None:
    x, y = normal(8, 4), normal(8, 3, seed=1)
    section, _ = curvature(section_input(ScriptedWeightNorm(), x, y))
    assert section.status == "measured"
    section, _ = curvature(section_input(scripted(ScriptedWeightNorm()), x, y))
    assert section.status == "undetermined"
    assert "scripted weight_norm" in (section.reason or "")


class HalfConstant(torch.autograd.Function):
    """A product whose author took the weight for a constant in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        return x @ w.T

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, w = ctx.saved_tensors
        return g @ w.detach(), g.T @ x


class Careless(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return HalfConstant.apply(x, self.weight)


@pytest.mark.parametrize("name", ["layer norm's third derivative", "a careless custom function"])
def test_a_hessian_that_is_not_symmetric_is_not_reported(name: str) -> None:
    torch.manual_seed(0)
    careless = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), Careless(6, 5), nn.Tanh(), Careless(5, 4))
    model = careless if name == "a careless custom function" else Force(nn.LayerNorm(6, bias=False))
    section, result = curvature(section_input(model.double(), normal(6, 4), normal(6, 4, seed=1)))
    assert section.status == "undetermined"
    assert "contradict each other" in (section.reason or "")
    assert (section.hessian_trace, section.top_eigenvalue, result.parameters) == (None, None, {})


def test_curvature_does_not_ask_whether_gradients_are_switched_on() -> None:
    s = section_input(mlp(4, 6, 3), normal(8, 4), normal(8, 3, seed=1))
    expected, _ = curvature(s)
    with torch.no_grad():
        found, _ = curvature(s)
    assert found == expected


@pytest.mark.parametrize("compute", ["bfloat16", "float16"])
def test_autocast_reaches_the_second_derivatives(compute: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 3))
    x, y = normal(8, 16, dtype=torch.float32), torch.arange(8) % 3
    full, _ = curvature(section_input(model, x, y, loss="cross_entropy"))
    half, _ = curvature(section_input(model, x, y, loss="cross_entropy", precision={"compute": compute}))
    assert half.status == "measured", half.reason
    assert full.hessian_trace is not None
    assert half.hessian_trace == pytest.approx(full.hessian_trace, rel=0.1)  # the same probes; products of eight bits


def test_a_product_that_is_not_finite_leaves_the_rest_standing() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.abs().pow(1.5)  # its slope is 0 at 0, and its bend is not finite there

    section, _ = curvature(section_input(Broken(), normal(6, 2), normal(6, seed=1)))
    assert section.status == "measured"
    assert section.top_eigenvalue is None
    assert "top_eigenvalue: a product with the Hessian is not finite" in (section.reason or "")


class Distances(nn.Module):
    """Distances to learned centres; torch differentiates them once."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(normal(30, 4, seed=2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(x, self.centres, p=3.0)


def test_an_operator_without_a_second_derivative_is_named() -> None:
    from gradinspect.inspection.sections import planned_sections, run_section

    s = section_input(Distances(), normal(6, 4), normal(6, 30, seed=1), diagnostics=("curvature",))
    (planned,) = planned_sections(s.settings)
    section = run_section(planned, s).section
    assert isinstance(section, Curvature)
    assert section.status == "undetermined"
    assert section.reason == "the operator _cdist_backward has no second derivative in torch"


def test_a_gradient_that_does_not_depend_on_the_parameters_has_no_curvature() -> None:
    section, _ = curvature(section_input(mlp(4, 3), normal(6, 4), loss="output_mean"))
    assert section.hessian_trace == 0.0
    assert section.top_eigenvalue == 0.0
    assert section.curvature_along_gradient == 0.0


def test_a_rescaled_loss_scales_every_curvature() -> None:
    x, y = normal(8, 4), normal(8, 3, seed=1)
    plain, _ = curvature(section_input(mlp(4, 6, 3), x, y))
    scaled, _ = curvature(section_input(mlp(4, 6, 3), x, y, custom_loss=lambda o, t: 1e-3 * (o - t).square().mean()))
    for name in ("hessian_trace", "hessian_trace_stderr", "curvature_along_gradient", "top_eigenvalue"):
        assert getattr(scaled, name) == pytest.approx(1e-3 * getattr(plain, name), rel=1e-9), name


def test_nothing_is_changed_by_measuring() -> None:
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


def test_random_signs_are_signs_and_uncorrelated() -> None:
    v = signs(100_003, torch.Generator().manual_seed(0), torch.zeros((), dtype=torch.float64))
    assert v.shape == (100_003,)
    assert torch.equal(v.abs(), torch.ones_like(v))
    # Means of 100,000 signs have a standard deviation of 0.0032; 5 of them, at 9 lags.
    assert abs(float(v.mean())) < 0.016
    assert all(abs(float((v[lag:] * v[:-lag]).mean())) < 0.016 for lag in range(1, 10))


def test_a_trace_has_the_standard_error_of_its_mean() -> None:
    trace = trace_of([[1.0, 10.0], [3.0, 20.0], [5.0, 60.0]], [0])
    assert trace.value == 3.0
    assert trace.stderr == pytest.approx(2 / math.sqrt(3))
    assert trace_of([[1.0, 10.0]], [0, 1]).stderr is None


def multiplied_by(matrix: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], object]:
    return lambda v, out: out.copy_(matrix @ v if matrix.dim() == 2 else matrix * v)


@pytest.mark.parametrize("kept", [0, WHOLE_BASIS_BYTES], ids=["the last vectors", "the whole basis"])
def test_lanczos_finds_the_largest_eigenvalue_and_not_the_largest_magnitude(kept: int) -> None:
    values = torch.linspace(-50, 3, 40, dtype=torch.float64)
    basis, _ = torch.linalg.qr(normal(40, 40))
    matrix = basis @ torch.diag(values) @ basis.T
    found = top_eigenvalue(
        multiplied_by(matrix), normal(40, seed=1), max_products=80, tolerance=1e-10, whole_basis_bytes=kept
    )
    assert found.value == pytest.approx(3.0, rel=1e-9)


@pytest.mark.parametrize("kept", [0, WHOLE_BASIS_BYTES], ids=["the last vectors", "the whole basis"])
def test_the_residual_of_lanczos_is_that_of_its_ritz_vector(kept: int) -> None:
    diagonal = torch.arange(1.0, 101.0, dtype=torch.float64)
    found = top_eigenvalue(
        multiplied_by(diagonal), normal(100, seed=1), max_products=8, tolerance=0.0, whole_basis_bytes=kept
    )
    assert found.products == 8
    # An eigenvalue lies within the residual of the Ritz value, which never exceeds the largest one.
    assert 0 < 100 - found.value <= found.residual


def test_lanczos_keeps_its_vectors_orthogonal_in_float32() -> None:
    diagonal = torch.cat([torch.tensor([1e4]), torch.linspace(0, 1, 199)])
    seen: list[torch.Tensor] = []

    def product(v: torch.Tensor, out: torch.Tensor) -> None:
        seen.append(v.clone())
        out.copy_(diagonal * v)

    found = top_eigenvalue(product, normal(200, seed=1).float(), max_products=40, tolerance=-1.0)  # goes on and on
    basis = torch.stack(seen).double()
    assert len(seen) > 10
    # √eps is what is allowed to stay; the recurrence alone lets the first eigenvector come back in full.
    overlaps = (basis @ basis.T - torch.eye(len(seen), dtype=torch.float64)).abs()
    assert float(overlaps.max()) < 2 * torch.finfo(torch.float32).eps ** 0.5
    assert found.value == pytest.approx(1e4, rel=1e-6)


def test_the_largest_eigenvalue_stands_though_the_last_vectors_lose_their_orthogonality() -> None:
    diagonal = torch.cat(
        [torch.tensor([-1e4, 1e2]), torch.linspace(0, 1, 198)]
    )  # the lowest settles first, and returns
    seen: list[torch.Tensor] = []

    def product(v: torch.Tensor, out: torch.Tensor) -> None:
        seen.append(v.clone())
        out.copy_(diagonal * v)

    found = top_eigenvalue(product, normal(200, seed=1).float(), max_products=40, tolerance=-1.0, whole_basis_bytes=0)
    basis = torch.stack(seen).double()
    overlaps = (basis @ basis.T - torch.eye(len(seen), dtype=torch.float64)).abs()
    assert float(overlaps.max()) > 0.5, "the spectrum was to be one that the recurrence alone does not bear"
    # Roundings are of the largest magnitude: 1e4·eps, times a few for 40 steps.
    assert found.value == pytest.approx(1e2, abs=1e4 * 40 * torch.finfo(torch.float32).eps)


def test_lanczos_of_a_half_precision_model_keeps_its_vectors_in_float32() -> None:
    like = torch.zeros((), dtype=torch.bfloat16)
    start = random_start(4096, torch.Generator().manual_seed(0), like)
    assert start.dtype is torch.float32
    diagonal = 100 * torch.arange(1.0, 4097.0).pow(-1.5)
    found = top_eigenvalue(multiplied_by(diagonal), start, max_products=30, tolerance=1e-3, whole_basis_bytes=0)
    assert found.value == pytest.approx(100.0, rel=1e-3)


def test_lanczos_takes_three_vectors_of_memory_where_they_are_large() -> None:
    places: set[int] = set()

    def product(v: torch.Tensor, out: torch.Tensor) -> None:
        places.update((v.data_ptr(), out.data_ptr()))
        out.copy_(torch.arange(1.0, 101.0) * v)

    found = top_eigenvalue(product, normal(100, seed=1).float(), max_products=9, tolerance=0.0, whole_basis_bytes=0)
    assert found.products == 9
    assert len(places) == 3


def test_the_number_of_products_is_told() -> None:
    s, _ = linear_map()
    section, _ = curvature(s)
    assert section.products >= 1 + PROBES + 3
