"""The estimate of a spec's memory, made before it is built, is close to what autograd then saves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save

import tests.support.networks.layer_specimens as specimens
from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.sources import SpecSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.wire.messages import Job, Limits
from gradinspect.engine.network.build import build
from gradinspect.inspection.job import run_job
from gradinspect.inspection.memory_estimate import memory_need

FLOAT = torch.float32


def kept_by_autograd(spec: ModelSpec, samples: int) -> int:
    """Sum the bytes of distinct tensors that autograd saves in a forward pass, without parameters."""
    model = build(spec, seed=0)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # keeps the address from being used again
        return tensor

    x = torch.zeros((samples, *spec.input.shape), dtype=torch.int64 if spec.input.holds_tokens else FLOAT)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held.append(model(x))
    return sum(seen.values())


@pytest.mark.parametrize(
    "document",
    [
        {"preset": "mlp", "input": {"shape": [64]}, "width": 64},
        {"preset": "mlp", "input": {"shape": [64]}, "width": 64, "activation": "Sigmoid", "norm": "BatchNorm1d"},
        {"preset": "cnn", "input": {"shape": [3, 16, 16]}, "channels": [8, 16]},
        {"preset": "resnet", "input": {"shape": [3, 16, 16]}, "blocks": [1, 1], "width": 8},
        {"preset": "rnn", "input": {"shape": [16, 8]}, "hidden_size": 32},
        {"preset": "rnn", "input": {"shape": [16, 8]}, "hidden_size": 32, "cell": "GRU"},
        {"preset": "transformer", "input": {"shape": [32], "dtype": "int64"}, "width": 32, "depth": 2},
    ],
    ids=lambda document: "-".join(str(part) for part in document.values() if isinstance(part, str)),
)
def test_the_estimate_is_within_a_factor_of_what_autograd_keeps(document: dict[str, Any]) -> None:
    spec, samples = from_python(ModelSpec, document), 8
    told = memory_need(spec, samples=samples, dtype=FLOAT)
    kept = kept_by_autograd(spec, samples)
    # The estimate may be wrong in both directions, but within a factor of 2, by which a refusal halves the batch.
    assert kept / 2 <= samples * told.sample_bytes <= 2.5 * kept


def test_fixed_memory_is_parameters_and_their_gradients() -> None:
    spec = from_python(ModelSpec, specimens.spec([3], {"type": "Linear", "out_features": 2}))
    assert memory_need(spec, samples=1, dtype=torch.float64).fixed_bytes == 8 * (8 + 8)
    # Half precision is cast from float32 draws, which need more memory than its gradients.
    assert memory_need(spec, samples=1, dtype=torch.float16).fixed_bytes == 8 * (2 + 4)


def run(document: dict[str, Any], limit: int, settings: dict[str, Any], data: bytes | None = None) -> None:
    job = Job(
        source=SpecSource(spec=from_python(ModelSpec, document)),
        settings=from_python(InspectionSettings, settings),
        limits=Limits(memory_bytes=limit),
    )
    run_job(job, model_bytes=None, weights_bytes=None, data_bytes=data)


MLP = {"preset": "mlp", "input": {"shape": [8]}, "widths": [16], "num_classes": 4}


def refusal(document: dict[str, Any], limit: int, settings: dict[str, Any], data: bytes | None = None) -> str:
    with pytest.raises(InspectionError) as caught:
        run(document, limit, settings, data)
    assert caught.value.code == "memory_limit"
    return caught.value.detail


def test_a_batch_that_cannot_fit_is_refused_with_one_that_does() -> None:
    need = memory_need(from_python(ModelSpec, MLP), samples=1000, dtype=FLOAT)
    limit = need.fixed_bytes + 100 * need.sample_bytes
    detail = refusal(MLP, limit, {"data": {"samples": 1000}})
    assert f"needs about {need.total_bytes} bytes" in detail
    assert f"the limit is {limit} bytes" in detail
    assert detail.endswith("a batch of 100 would fit")
    run(MLP, limit, {"data": {"samples": 100}})


def test_a_model_that_cannot_fit_is_refused_before_it_is_built() -> None:
    huge = {"preset": "mlp", "input": {"shape": [8]}, "widths": [2**20, 2**10]}
    detail = refusal(huge, 2**30, {})
    assert "parameters and their gradients alone need" in detail


def test_a_sample_that_cannot_fit_is_named() -> None:
    wide = specimens.spec(
        [4], {"type": "Unflatten", "dim": 1, "unflattened_size": [1, 4]}, {"type": "Upsample", "size": 10**6}
    )
    assert "a single sample needs" in refusal(wide, 2**16, {"loss": "output_mean"})


def test_the_samples_of_an_artifact_count() -> None:
    data = save({"x": torch.zeros(1000, 8), "y": torch.zeros(1000, dtype=torch.int64)})
    settings = {"data": {"artifact": "sha256:" + "0" * 64, "inputs": ["x"], "target": "y"}}
    assert refusal(MLP, 10_000, settings, data).startswith("a batch of 1000 needs about")
