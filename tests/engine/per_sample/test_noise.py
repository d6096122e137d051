"""Per-sample gradient norms compared with a loop over single samples, and the noise scale with its closed form."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from gradinspect.contracts.report.sections import Noise
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import replaying
from gradinspect.engine.per_sample.noise import estimate_noise, noise_section
from gradinspect.engine.per_sample.sample_gradients import SampleMoments
from gradinspect.engine.per_sample.sample_norms import sample_norms
from tests.support.networks.sample_loops import loop, measured
from tests.support.networks.sample_models import MODELS, ROWS, TOKENS, TRANSFORMER, Centred, build
from tests.support.networks.section_inputs import mlp, normal, residual, scripted, section_input


def targets(samples: int) -> torch.Tensor:
    return normal(samples, 3, seed=9)


def prepared(name: str, dtype: torch.dtype = torch.float64, **settings: Any) -> SectionInput:
    model, inputs = build(name, dtype)
    if name == TRANSFORMER:
        return section_input(model, inputs, torch.arange(6), loss="cross_entropy", **settings)
    return section_input(model, inputs, targets(6).to(dtype), **settings)


@pytest.mark.parametrize("name", MODELS)
def test_per_sample_norms_equal_those_of_a_loop_over_single_samples(name: str) -> None:
    s = prepared(name)
    expected = loop(s)
    norms = measured(s)
    assert norms.keys() == expected.keys()
    for parameter, value in expected.items():
        # float64: a few thousand roundings. A gradient that is zero but for rounding (attention's key bias) is compared
        # with the size of the others.
        assert norms[parameter] == pytest.approx(value, rel=1e-9, abs=1e-20 * sum(expected.values())), parameter


@pytest.mark.parametrize("name", ["mlp", "cnn with group norm", "lstm", TRANSFORMER])
def test_per_sample_norms_in_float32_are_accurate_to_1e_5(name: str) -> None:
    expected = loop(prepared(name))
    found = measured(prepared(name, torch.float32))
    for parameter, value in expected.items():
        if value > 1e-12 * sum(expected.values()):
            assert math.sqrt(found[parameter]) == pytest.approx(math.sqrt(value), rel=1e-5), parameter


@pytest.mark.parametrize("name", ["mlp", "cnn with group norm", "attention", "lstm", "conv3d"])
def test_a_torchscript_file_has_the_norms_of_its_eager_model(name: str) -> None:
    model, inputs = build(name)
    expected = measured(section_input(model, inputs, targets(6)))
    found = measured(section_input(scripted(copy.deepcopy(model)), inputs, targets(6)))
    assert found == pytest.approx(expected, rel=1e-12)


def test_gram_and_direct_sums_give_the_same_norms() -> None:
    # 40 positions and 4·3 weights use the gradient itself, the same with 200 inputs the Gram matrices.
    wide = nn.Sequential(nn.Linear(200, 150), nn.Tanh(), nn.Flatten(), nn.Linear(3000, 3)).double()
    s = section_input(wide, normal(6, 20, 200), targets(6))
    assert measured(s) == pytest.approx(loop(s), rel=1e-10)


def test_norms_are_right_where_squares_of_the_gradients_underflow_float32() -> None:
    model, inputs = build("mlp", torch.float32)
    s = section_input(
        model, inputs, targets(6).float(), custom_loss=lambda o, t: residual(o, t).square().mean() * 1e-30
    )
    large = measured(section_input(model, inputs, targets(6).float()))
    assert measured(s) == pytest.approx({name: value * 1e-60 for name, value in large.items()}, rel=1e-4)


class Remapped(nn.Module):
    """An embedding whose indices are computed from the inputs, one for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(torch.tanh(self.table((x[:, 0] + 1) % 7)))
        return output


def test_a_lookup_by_computed_indices_is_not_taken_for_one_of_positions() -> None:
    s = section_input(Remapped().double(), TOKENS, targets(6))
    with replaying(s):
        norms = sample_norms(s, 6)
    assert not isinstance(norms, str)
    assert norms.without_formula == []
    assert {entry.name: value for entry, value in norms.mean_squares.items()} == pytest.approx(loop(s), rel=1e-10)


def test_a_table_that_divides_by_frequencies_in_the_batch_has_no_formula() -> None:
    table = nn.Embedding(7, 4, scale_grad_by_freq=True)
    model = nn.Sequential(table, nn.Flatten(), nn.Linear(20, 3)).double()
    s = section_input(model, TOKENS, targets(6))
    with replaying(s):
        norms = sample_norms(s, 6)
    assert not isinstance(norms, str)
    assert [entry.name for entry in norms.without_formula] == ["0.weight"]


def test_norms_are_right_where_squares_of_the_inputs_overflow_float32() -> None:
    # ‖x‖² is 4·10³⁹ and ‖δ‖² as small: each leaves float32's range, their product does not.
    inputs, scale = 3e19 * ROWS.float(), 1e-19

    def loss(output: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        return residual(output * scale, target).square().mean()

    s = section_input(mlp(4, 3).float(), inputs, targets(6).float(), custom_loss=loss)
    expected = measured(section_input(mlp(4, 3), inputs.double(), targets(6), custom_loss=loss))
    assert measured(s) == pytest.approx(expected, rel=1e-5)
    section = noise_section(s).section
    assert isinstance(section, Noise)
    assert section.status == "measured"


def test_layers_below_a_batch_norm_in_training_mode_have_no_per_sample_gradient_and_say_why() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    result = noise_section(section_input(model, ROWS, targets(6)))
    assert isinstance(result.section, Noise)
    assert result.section.status == "undetermined"
    assert "mixes samples" in str(result.section.reason)
    reasons = {row.layer: row.reason for row in result.section.layers}
    assert reasons["0"] is not None
    assert reasons["3"] is None
    assert set(result.parameters) == {"1.weight", "1.bias", "3.weight", "3.bias"}


def test_batch_norm_in_evaluation_mode_keeps_samples_apart() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    model(normal(32, 4, seed=2))
    model.eval()
    s = section_input(model, ROWS, targets(6), mode="eval")
    assert measured(s) == pytest.approx(loop(s), rel=1e-10)


def test_samples_mixed_by_plain_arithmetic_are_noticed() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), Centred(), nn.Linear(5, 3)).double()
    result = noise_section(section_input(model, ROWS, targets(6)))
    assert set(result.parameters) == {"3.weight", "3.bias"}


def test_dropout_draws_the_masks_of_the_first_pass() -> None:
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Tanh(), nn.Linear(64, 3)).double()
    s = section_input(model, ROWS, targets(6))
    found = measured(s)
    # The bias of the head has no mask: it sums to the first pass's gradient over samples only if masks agree.
    with replaying(s), torch.random.fork_rng():
        torch.manual_seed(s.seed)
        output = model(ROWS)
        slope = (2 * (output - targets(6)) / 3).detach()
    assert found["3.bias"] == pytest.approx(float(slope.square().sum(1).mean()), rel=1e-12)


def test_the_noise_scale_of_linear_regression_is_its_closed_form() -> None:
    d, samples, s_noise = 5, 200_000, 2.0
    difference = normal(d, seed=4)
    x = normal(samples, d, seed=5)
    y = s_noise * normal(samples, 1, seed=6)
    model = nn.Linear(d, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(difference)
    section = noise_section(section_input(model, x, y)).section
    assert isinstance(section, Noise)
    assert section.noise_scale is not None
    truth = (d + 1) + d * s_noise**2 / float(difference.square().sum())
    # ‖g_n‖² has a relative spread under 5, so its mean over 200,000 is within 1.1 % at one standard error; 5 of them.
    assert section.noise_scale == pytest.approx(truth, rel=0.055)
    assert section.grad_snr == pytest.approx(math.sqrt(samples / section.noise_scale), rel=1e-12)


def test_noise_of_two_samples_is_their_unbiased_estimate() -> None:
    # Gradients (3, 0) and (1, 2): mean (2, 1), squares 9 and 5.
    figures = estimate_noise([SampleMoments(mean_square=7.0, square_of_mean=5.0)], samples=2)
    assert figures.gradient_norm_squared == pytest.approx(3.0)  # = ⟨g_1, g_2⟩
    assert figures.covariance_trace == pytest.approx(4.0)  # = ‖g_1 − g_2‖²/2
    assert figures.noise_scale == pytest.approx(4 / 3)
    assert figures.grad_snr == pytest.approx(math.sqrt(2 * 3 / 4))


def test_a_gradient_of_noise_only_has_no_ratio() -> None:
    figures = estimate_noise([SampleMoments(mean_square=7.0, square_of_mean=3.5)], samples=2)
    assert figures.noise_scale is None
    assert figures.grad_snr is None
    assert figures.covariance_trace == pytest.approx(7.0)


def test_the_noise_scale_of_several_parameters_is_a_ratio_of_sums() -> None:
    parts = [SampleMoments(7.0, 5.0), SampleMoments(20.0, 12.0)]
    total = estimate_noise(parts, samples=4)
    each = [estimate_noise([part], samples=4) for part in parts]
    traces = sum(figures.covariance_trace for figures in each)
    assert total.noise_scale == pytest.approx(traces / sum(figures.gradient_norm_squared for figures in each))


@pytest.mark.parametrize("factor", [1e-6, 1e3])
def test_rescaling_the_loss_changes_no_ratio(factor: float) -> None:
    model, inputs = build("mlp")
    shifted = targets(6) + 5  # far from the outputs, so that the samples agree on a direction
    plain = noise_section(section_input(model, inputs, shifted)).section
    scaled = noise_section(
        section_input(model, inputs, shifted, custom_loss=lambda o, t: residual(o, t).square().mean() * factor)
    ).section
    assert isinstance(plain, Noise)
    assert isinstance(scaled, Noise)
    assert scaled.noise_scale == pytest.approx(plain.noise_scale, rel=1e-9)
    assert scaled.grad_snr == pytest.approx(plain.grad_snr, rel=1e-9)


def test_the_order_of_samples_does_not_matter() -> None:
    model, inputs = build("mlp")
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    plain = noise_section(section_input(model, inputs, targets(6))).section
    shuffled = noise_section(section_input(model, inputs[order], targets(6)[order])).section
    assert isinstance(plain, Noise)
    assert isinstance(shuffled, Noise)
    assert shuffled.covariance_trace == pytest.approx(plain.covariance_trace, rel=1e-12)


def test_a_loss_that_is_not_a_mean_over_samples_is_refused() -> None:
    model, inputs = build("mlp")
    section = noise_section(
        section_input(model, inputs, targets(6), custom_loss=lambda o, t: residual(o, t).std())
    ).section
    assert isinstance(section, Noise)
    assert section.reason == "the loss is not a mean over the samples"


def test_one_sample_has_no_noise() -> None:
    section = noise_section(section_input(mlp(4, 3), ROWS[:1], targets(1))).section
    assert isinstance(section, Noise)
    assert section.reason == "the batch holds one sample; noise needs two"


def test_the_reason_names_the_needed_and_the_remaining_budget() -> None:
    section = noise_section(section_input(mlp(4, 3), ROWS, targets(6), budget=0.0)).section
    assert isinstance(section, Noise)
    assert section.status == "undetermined"
    assert str(section.reason).startswith("budget: needs about ")
    assert str(section.reason).endswith(" s are left")
