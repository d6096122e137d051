"""Every layer type of specs, alone and nested at random: gradients equal autograd's, or the reason is given."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import tests.support.networks.layer_specimens as specimens
from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import FAILURES, InspectionError, ProblemError
from gradinspect.contracts.report.report import Measurements
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.sources import SpecSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.wire.messages import Job, Limits
from gradinspect.engine.network.batch import make_batch
from gradinspect.engine.network.build import build
from gradinspect.engine.network.losses import compute_loss
from gradinspect.engine.network.reproducible import generator, seeded
from gradinspect.engine.per_sample.sample_norms import sample_norms
from gradinspect.inspection.job import run_job
from tests.support.networks.sample_loops import loop, measured
from tests.support.networks.section_inputs import section_input

SAMPLES = 4
CPU = torch.device("cpu")


def planned_or_none(document: specimens.Json) -> ModelSpec | None:
    """Return the spec, or None when it is refused with a reason."""
    try:
        return from_python(ModelSpec, document, code="invalid_spec")
    except ProblemError as error:
        problem = error
    assert problem.errors
    return None


def reported_or_none(spec: ModelSpec, mode: str) -> Measurements | None:
    """Return the engine's report, or None when it refuses with a known reason."""
    asked = InspectionSettings.model_validate(
        {"loss": "mse", "data": {"samples": SAMPLES}, "precision": {"compute": "float64"}, "mode": mode}
    )
    job = Job(source=SpecSource(spec=spec), settings=asked, limits=Limits(threads=1))
    try:
        return run_job(job, model_bytes=None, weights_bytes=None, data_bytes=None)
    except InspectionError as error:
        failure = error
    assert failure.code in FAILURES
    assert failure.detail
    return None


def drawn(spec: ModelSpec, mode: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return the model, inputs and target of a job with that spec, without measuring."""
    model = build(spec, seed=0, dtype=torch.float64).train(mode == "train")
    batch = make_batch(
        InspectionSettings.model_validate({"data": {"samples": SAMPLES}}).data, None, sample_input=spec.input,
        vocabulary=spec.input.high, loss="mse", dtype=torch.float64, device=CPU, seed=0,
    )  # fmt: skip
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with seeded(0, CPU), torch.no_grad():
        target = batch.target_for(model(*batch.inputs))
    model.load_state_dict(kept)
    assert target is not None
    return model, batch.inputs[0], target


def assert_gradients_are_autograds(spec: ModelSpec, report: Measurements, mode: str) -> None:
    model, inputs, target = drawn(spec, mode)
    with seeded(0, CPU):
        loss = compute_loss("mse", model(inputs), target, generator(0, "cotangent"))
    if bool(torch.isnan(loss)):
        return
    loss.backward()
    assert report.summary.loss == pytest.approx(float(loss.detach()), rel=1e-9)
    parameters = dict(model.named_parameters())
    for row in report.parameters:
        gradient = parameters[row.name].grad
        if gradient is None:
            assert row.status in ("unused", "frozen"), row.name
            continue
        gradient = gradient.to_dense() if gradient.is_sparse else gradient
        if not bool(torch.isfinite(gradient).all()):
            assert row.nan_count + row.inf_count > 0, row.name
            continue
        size = float(gradient.abs().max()) or 1.0
        assert row.grad_norm == pytest.approx(float(gradient.norm()), rel=1e-8, abs=1e-12 * size), row.name
        assert row.grad_mean == pytest.approx(float(gradient.mean()), rel=1e-8, abs=1e-12 * size), row.name
        assert row.grad_abs_max == pytest.approx(float(gradient.abs().max()), rel=1e-8, abs=1e-15), row.name


def check(spec: ModelSpec | None, mode: str) -> bool:
    """Return whether there was a report, whose gradients must equal autograd's."""
    if spec is None or spec.plan.parameters > 200_000:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about even kernels and about softmax without an axis
        report = reported_or_none(spec, mode)
        if report is not None:
            assert_gradients_are_autograds(spec, report, mode)
    return report is not None


def between_weights(document: specimens.Json) -> ModelSpec:
    """Put a weight before the layer, so that a signal passes through it, and a head after it, as shapes allow."""
    shape, layers = document["input"]["shape"], document["layers"]
    front = [] if document["input"]["dtype"] == "int64" else [{"type": "Linear", "out_features": shape[-1]}]
    head = [{"type": "Flatten"}, {"type": "Linear", "out_features": 3}]
    made = [planned_or_none(document | {"layers": row}) for row in ([*front, *layers, *head], [*front, *layers])]
    return next(spec for spec in made if spec is not None)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("document", specimens.EVERY_LAYER, ids=specimens.label)
def test_every_layer_has_the_gradients_of_plain_autograd(document: specimens.Json, mode: str) -> None:
    assert check(between_weights(document), mode)


RANDOM_IN_ANY_MODE = ("FractionalMaxPool2d", "FractionalMaxPool3d")


@pytest.mark.parametrize("document", specimens.EVERY_LAYER, ids=specimens.label)
def test_every_layer_has_the_per_sample_norms_of_a_loop_or_says_that_samples_mix(document: specimens.Json) -> None:
    kind = document["layers"][0].get("type")
    model, inputs, target = drawn(between_weights(document), "eval")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        s = section_input(model.eval(), inputs, target, mode="eval")
        if kind in RANDOM_IN_ANY_MODE:
            assert not isinstance(sample_norms(s, SAMPLES), str)
            return
        expected = loop(s)
        found = measured(s)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-8, abs=1e-18 * (sum(expected.values()) + 1)), name


def as_far_as_it_fits(shape: list[int], row: list[specimens.Json]) -> ModelSpec | None:
    """Return a weight, then the layers that accept their input, then a head."""
    kept: list[specimens.Json] = [{"type": "Linear", "out_features": shape[-1]}] if shape else []
    for layer in [*row, {"type": "Flatten"}, {"type": "Linear", "out_features": 3}]:
        if planned_or_none(specimens.spec(shape, *kept, layer)) is not None:
            kept.append(layer)
    return planned_or_none(specimens.spec(shape, *kept)) if kept else None


nesting = given(shape=specimens.SHAPES, row=st.lists(specimens.nested(), min_size=1, max_size=8))


@settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@nesting
def test_random_nesting_is_refused_with_a_reason_or_has_autograds_gradients(
    shape: list[int], row: list[specimens.Json]
) -> None:
    check(planned_or_none(specimens.spec(shape, *row)), "train")
    check(as_far_as_it_fits(shape, row), "train")


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@nesting
def test_much_random_nesting_is_refused_with_a_reason_or_has_autograds_gradients(
    shape: list[int], row: list[specimens.Json]
) -> None:
    check(planned_or_none(specimens.spec(shape, *row)), "train")
    check(as_far_as_it_fits(shape, row), "train")
