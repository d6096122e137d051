"""How a loss reads an output: from the graph, for named losses, callables and losses inside the model alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from gradinspect.contracts.report.setup import OutputHead
from gradinspect.engine.network.loss_head import read_heads

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
DIFFERENCES: dict[str, Loss] = {
    "mse": functional.mse_loss,
    "smooth_l1": functional.smooth_l1_loss,
    "huber": functional.huber_loss,
    "l1": functional.l1_loss,
    "by hand": lambda output, target: ((target - output) ** 2).mean(),
}
CLASSES = torch.tensor([0, 1, 2, 1])


def scores(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).requires_grad_() * 1.0


def heads(output: torch.Tensor, target: torch.Tensor, loss: Loss) -> dict[str, OutputHead]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of stretched shapes
        return {head.loss_function: head for head, _ in read_heads(output, target, loss(output, target))}


def test_cross_entropy_sees_a_softmax_in_front_of_it() -> None:
    read = heads(scores(4, 3).softmax(1), CLASSES, functional.cross_entropy)
    assert read["cross_entropy"].last_operation == "softmax"
    assert not read["cross_entropy"].is_over_samples
    assert read["nll"].log_probability_error == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("axis", [0, -2])
def test_a_softmax_over_the_samples_is_recognised(axis: int) -> None:
    read = heads(scores(4, 3).softmax(axis), CLASSES, functional.cross_entropy)
    assert read["cross_entropy"].is_over_samples


def test_logits_have_no_last_operation() -> None:
    assert heads(scores(4, 3), CLASSES, functional.cross_entropy)["cross_entropy"].last_operation is None


def test_a_view_hides_no_activation() -> None:
    output = scores(2, 2, 3).sigmoid().flatten(0, 1)
    assert heads(output, CLASSES, functional.cross_entropy)["cross_entropy"].last_operation == "sigmoid"


def test_scaled_bounded_logits_are_no_bounded_output() -> None:
    read = heads(10 * scores(4, 3).tanh(), CLASSES, functional.cross_entropy)
    assert read["cross_entropy"].last_operation is None


def test_nll_of_probabilities_is_far_from_log_probabilities() -> None:
    read = heads(scores(4, 3).softmax(1), CLASSES, functional.nll_loss)["nll"]
    assert read.last_operation == "softmax"
    # log Σ exp of three numbers that sum to 1 is at least log 3 + 1/3.
    assert read.log_probability_error is not None
    assert read.log_probability_error > 1.43


def test_nll_of_the_logarithm_of_probabilities_is_right() -> None:
    read = heads(scores(4, 3).softmax(1).log(), CLASSES, functional.nll_loss)["nll"]
    assert read.log_probability_error == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("loss", DIFFERENCES.values(), ids=list(DIFFERENCES))
def test_targets_that_a_relu_cannot_reach_are_counted(loss: Loss) -> None:
    target = torch.tensor([[1.0], [-1.0], [2.0], [-3.0]])
    (read,) = heads(scores(4, 1).relu(), target, loss).values()
    assert (read.last_operation, read.targets_outside) == ("relu", 0.5)
    assert (read.target_low, read.target_high) == (-3.0, 2.0)


@pytest.mark.parametrize("loss", DIFFERENCES.values(), ids=list(DIFFERENCES))
def test_targets_inside_the_range_of_tanh_are_reached(loss: Loss) -> None:
    (read,) = heads(scores(4, 1).tanh(), torch.tensor([[1.0], [-1.0], [0.5], [1.01]]), loss).values()
    assert read.targets_outside == 0.0


@pytest.mark.parametrize("loss", DIFFERENCES.values(), ids=list(DIFFERENCES))
def test_output_and_target_that_stretch_each_other_are_seen(loss: Loss) -> None:
    (read,) = heads(scores(4, 1), torch.ones(4), loss).values()
    assert (read.output_shape, read.target_shape, read.compared_shape) == ((4, 1), (4,), (4, 4))


@pytest.mark.parametrize("loss", DIFFERENCES.values(), ids=list(DIFFERENCES))
@pytest.mark.parametrize("shape", [(4, 1), (1, 4)], ids=["equal shapes", "stretched on purpose"])
def test_equal_shapes_and_a_target_without_the_sample_axis_are_not(loss: Loss, shape: tuple[int, ...]) -> None:
    (read,) = heads(scores(4, 1), torch.ones(shape), loss).values()
    assert not read.compared_shape


def test_binary_targets_of_minus_one_are_outside_of_the_loss() -> None:
    target = torch.tensor([1.0, -1.0, 1.0, -1.0])
    read = heads(scores(4), target, functional.binary_cross_entropy_with_logits)["bce_with_logits"]
    assert read.targets_outside == 0.5


def test_one_minus_probabilities_is_no_comparison_with_the_target() -> None:
    def focal(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((1 - output.gather(1, target[:, None])) ** 2).mean()

    assert not heads(scores(4, 3).softmax(1), CLASSES, focal)


def test_a_loss_inside_the_model_is_read_too() -> None:
    loss = functional.cross_entropy(scores(4, 3).softmax(1), CLASSES)
    read = {head.loss_function: head for head, _ in read_heads(loss, None, loss)}
    assert read["cross_entropy"].last_operation == "softmax"
