"""Named losses compared with torch's, the targets drawn for them, and synthetic batches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.network.batch import digest, make_batch
from gradinspect.engine.network.losses import compute_loss, draw_target, expected_initial_loss
from tests.support.networks.inspected import as_job, inspect, random

DRAWS = torch.Generator().manual_seed(0)
OUTPUT = random(6, 4)
CLASSES = torch.tensor([0, 1, 2, 3, 0, 1])


def loss(name: Any, output: torch.Tensor, target: torch.Tensor | None) -> float:
    return float(compute_loss(name, output, target, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mse", functional.mse_loss), ("l1", functional.l1_loss), ("huber", functional.huber_loss),
     ("bce_with_logits", functional.binary_cross_entropy_with_logits)],
)  # fmt: skip
def test_a_regression_loss_equals_torchs(name: str, expected: Any) -> None:
    target = random(6, 4, seed=1).abs().clamp(max=1)
    assert loss(name, OUTPUT, target) == float(expected(OUTPUT, target))


def test_classification_losses_equal_torchs_with_classes_on_either_axis() -> None:
    assert loss("cross_entropy", OUTPUT, CLASSES) == float(functional.cross_entropy(OUTPUT, CLASSES))
    logs = OUTPUT.log_softmax(-1)
    assert loss("nll", logs, CLASSES) == float(functional.nll_loss(logs, CLASSES))
    sequence, words = random(2, 5, 7), torch.arange(10).view(2, 5) % 7  # (batch, time, classes)
    flat = functional.cross_entropy(sequence.reshape(10, 7), words.reshape(10))
    assert loss("cross_entropy", sequence, words) == pytest.approx(float(flat), rel=1e-14)
    image, pixels = random(2, 3, 4, 4), torch.arange(32).view(2, 4, 4) % 3  # (batch, classes, height, width)
    assert loss("cross_entropy", image, pixels) == float(functional.cross_entropy(image, pixels))


def test_the_output_mean_and_a_random_cotangent_need_no_target() -> None:
    assert loss("output_mean", OUTPUT, None) == float(OUTPUT.mean())
    first, second = (loss("random_cotangent", OUTPUT, None) for _ in range(2))
    assert first == second
    head = nn.Linear(3, 500).double()
    signal = inspect(head, random(64, 3), loss="random_cotangent").layers[0].signal
    # δ = v/N with v ~ N(0, I): its rms is 1/64, and 32,000 draws leave a relative error of 1/√64,000 = 0.004.
    assert signal is not None
    assert signal.rms == pytest.approx(1 / 64, rel=5 * 0.004)


@pytest.mark.parametrize(
    ("name", "output", "target", "words"),
    [
        ("mse", OUTPUT, None, "needs a target"),
        ("mse", OUTPUT, random(6, 3), r"output \[6, 4\], target \[6, 3\]"),
        ("cross_entropy", OUTPUT, random(6), "takes integer classes"),
        ("cross_entropy", OUTPUT, torch.arange(5), r"output \[6, 4\] with classes \[5\]"),
        ("cross_entropy", OUTPUT, CLASSES + 1, "holds classes 1 to 4, but the output .* has 4 classes"),
        ("cross_entropy", random(6), CLASSES, r"output \[6\] with classes \[6\]"),
    ],
)
def test_a_target_that_does_not_fit_is_refused_with_both_shapes(
    name: str, output: torch.Tensor, target: torch.Tensor | None, words: str
) -> None:
    with pytest.raises(InspectionError, match=words) as caught:
        loss(name, output, target)
    assert caught.value.code == "data_mismatch"


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [("cross_entropy", (6, 4), (6,)), ("cross_entropy", (2, 5, 7), (2, 5)), ("nll", (2, 3, 4, 4), (2, 4, 4)),
     ("mse", (6, 4), (6, 4)), ("bce_with_logits", (6, 1), (6, 1))],
)  # fmt: skip
def test_a_missing_target_is_drawn_to_fit_the_output(
    name: Any, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    target = draw_target(name, random(*shape), None, DRAWS)
    assert target is not None
    assert tuple(target.shape) == expected
    assert math.isfinite(loss(name, random(*shape), target))


def test_the_expected_initial_loss_is_that_of_a_constant_prediction() -> None:
    assert expected_initial_loss("cross_entropy", (6, 4), CLASSES) == math.log(4)
    assert expected_initial_loss("cross_entropy", (2, 5, 7), torch.zeros(2, 5, dtype=torch.int64)) == math.log(7)
    assert expected_initial_loss("cross_entropy", (2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)) == math.log(3)
    assert expected_initial_loss("bce_with_logits", (6, 1), None) == math.log(2)
    assert expected_initial_loss("mse", (6, 4), OUTPUT) is None


SPEC = {"input": {"shape": [5]}, "layers": [{"type": "Linear", "out_features": 3}]}


def test_a_synthetic_batch_depends_on_the_seed_only() -> None:
    one, again, other = (as_job(spec=SPEC, seed=seed) for seed in (1, 1, 2))
    assert one.environment.data_digest == again.environment.data_digest != other.environment.data_digest
    assert one.environment.synthetic_data
    assert one.layers == again.layers


def batch(data: dict[str, Any], **options: Any) -> tuple[torch.Tensor, ...]:
    settings = from_python(InspectionSettings, {"data": data})
    made = make_batch(
        settings.data, options.get("tensors"), sample_input=None, vocabulary=None, loss=options.get("loss", "mse"),
        dtype=options.get("dtype"), device=torch.device("cpu"), seed=0, part=options.get("part", (0, 1)),
    )  # fmt: skip
    return made.inputs


def test_each_kind_of_synthetic_tensor_has_its_distribution() -> None:
    normal, uniform, integers, constant = batch({"inputs": [
        {"kind": "normal", "shape": [10000], "mean": 2.0, "std": 3.0},
        {"kind": "uniform", "shape": [10000], "low": -1.0, "high": 5.0},
        {"kind": "integers", "shape": [10000], "low": 3, "high": 7},
        {"kind": "constant", "shape": [10000], "value": 0.5},
    ]})  # fmt: skip
    # five standard errors of 10,000 draws
    assert float(normal.mean()) == pytest.approx(2.0, abs=5 * 3 / 100)
    assert float(normal.std()) == pytest.approx(3.0, rel=5 / math.sqrt(2 * 10000))
    assert -1 <= float(uniform.min()) < -0.9 < 4.9 < float(uniform.max()) < 5
    assert set(integers.tolist()) == {3, 4, 5, 6}
    assert bool((constant == 0.5).all())


def test_the_samples_of_an_artifact_are_divided_into_equal_parts() -> None:
    data = {"artifact": "sha256:" + "0" * 64, "inputs": ["x"]}
    tensors = {"x": torch.arange(10.0)}
    parts = [batch(data, tensors=tensors, loss="output_mean", part=(index, 3))[0].tolist() for index in range(3)]
    assert parts == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0]]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [(["z"], "has no tensor 'z'; it has x, y"), (["x", "y"], "must share their first axis")],
)
def test_an_artifact_that_does_not_fit_is_refused(inputs: list[str], words: str) -> None:
    data = {"artifact": "sha256:" + "0" * 64, "inputs": inputs}
    with pytest.raises(InspectionError, match=words):
        batch(data, tensors={"x": torch.ones(4, 2), "y": torch.ones(3)})


def test_digests_differ_by_values_shapes_and_dtypes() -> None:
    tensors = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.tensor([0.0, 0, 0, 1])]
    assert len({digest([tensor]) for tensor in tensors}) == 4
    assert digest([torch.zeros(3, 2).t()]) == digest([torch.zeros(2, 3)])
