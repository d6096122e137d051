"""Requests: defaults are complete, and a wrong field is reported once, with its pointer and a correction."""

from __future__ import annotations

from typing import Any

import pytest

from gradinspect.contracts.document import from_json, from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.request import InspectionRequest, InspectionSettings
from gradinspect.contracts.wire.resources import ModelRegistration

MODEL = "mdl_01890a5d-ac96-774b-bcce-b302099a8057"
DIGEST = "sha256:" + "0" * 64
MLP = {"input": {"shape": [4]}, "layers": [{"type": "Linear", "out_features": 3}]}


def request(**more: Any) -> InspectionRequest:
    """Return a request for the model above."""
    return from_python(InspectionRequest, {"model": MODEL} | more)


def test_a_model_alone_is_a_complete_request() -> None:
    found = request()
    assert found.loss == "cross_entropy"
    assert found.diagnostics == ("gradients", "signals")
    assert found.lr_scales is False
    assert (found.policy, found.mode, found.seeds, found.device, found.seed) == ("default", "train", 1, "auto", 0)
    assert found.data is None
    assert found.optimizer is None


def test_the_request_of_the_documentation_is_read() -> None:
    found = request(
        data={
            "inputs": [{"kind": "normal", "shape": [128, 784], "dtype": "float32"}],
            "target": {"kind": "classes", "num_classes": 10},
        },
        loss="cross_entropy", optimizer={"type": "sgd", "lr": 0.1, "momentum": 0.9},
        precision={"compute": "float32", "intended": "float16", "loss_scale": 65536},
        diagnostics=["gradients", "signals", "noise", "curvature", "jacobian", "training_trace"],
        lr_scales={"verify": True, "probe_steps": 100, "seeds": 3}, policy="default", mode="train", seeds=1,
        device="auto", seed=0, labels={"team": "vision"},
    )  # fmt: skip
    assert found.precision.loss_scale == 65536
    again = from_json(InspectionRequest, found.model_dump_json(exclude_none=True))
    assert again == found


def test_settings_omit_ids_labels_and_policy() -> None:
    settings = request(labels={"team": "vision"}, seeds=3).settings()
    assert type(settings) is InspectionSettings
    assert settings.seeds == 3
    assert not hasattr(settings, "labels")


@pytest.mark.parametrize("trial", ["auto", "off", {}, {"steps": 50}, {"seconds": 0.5}])
def test_a_trial_is_a_word_or_a_budget(trial: Any) -> None:
    assert request(trial=trial).model_dump(mode="json", exclude_unset=True)["trial"] == trial


@pytest.mark.parametrize(
    ("trial", "shown"), [("always", ', got "always"'), (5, ", got 5"), (None, ", got null"), ([], "")]
)
def test_a_wrong_trial_is_answered_with_all_its_forms(trial: object, shown: str) -> None:
    with pytest.raises(ProblemError) as refused:
        request(trial=trial)
    (error,) = refused.value.errors
    assert error.pointer == "/trial"
    assert (
        error.detail
        == f"Input should be 'auto', 'off' or an object such as {{\"steps\": 2000, \"seconds\": 20}}{shown}"
    )


def normal(*shape: int, **more: Any) -> dict[str, Any]:
    return {"kind": "normal", "shape": list(shape)} | more


def inputs(*tensors: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"inputs": list(tensors)}}


def layers(*rows: Any, shape: tuple[int, ...] = (4,), **more: Any) -> dict[str, Any]:
    """Return a request with an inline spec of these layers."""
    return {"model": {"spec": {"input": {"shape": list(shape)}, "layers": list(rows)} | more}}


LINEAR = {"type": "Linear", "out_features": 3}
REPEATED: dict[str, Any] = {"type": "ReLU"}
for _ in range(6):
    REPEATED = {"repeat": 4_000, "layers": [REPEATED]}
ROW = "/model/spec/layers"

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "/model", "Input should be an object, got null"),
    ({"model": 3}, "/model", "Input should be an object, got 3"),
    ({"model": "model-1"}, "/model", "String should match pattern"),
    ({"model": {}}, "/model/spec", "required field"),
    ({"model": {"spec": {"layers": [LINEAR]}}}, "/model/spec/input", "required field"),
    ({"model": {"spec": MLP | {"layers": []}}}, ROW, "at least 1 item"),
    ({"modle": 1}, "/modle", "unknown field"),
    ({"loss": "cross-entropy"}, "/loss", "'cross_entropy'"),
    ({"optimizer": {"lr": 0.1}}, "/optimizer/type", "required field"),
    ({"optimizer": {"type": "sdg"}}, "/optimizer/type", "did you mean 'sgd'"),
    ({"optimizer": {"type": "sgd", "lr": 0}}, "/optimizer/lr", "greater than 0, got 0"),
    ({"optimizer": {"type": "sgd", "lr": "0.1"}}, "/optimizer/lr", 'valid number, got "0.1"'),
    ({"optimizer": {"type": "adam", "betas": [0.9]}}, "/optimizer/betas/1", "required field"),
    ({"optimizer": {"type": "adam", "momentum": 0.9}}, "/optimizer/momentum", "unknown field"),
    ({"diagnostics": []}, "/diagnostics", "at least 1 item"),
    ({"diagnostics": ["gradients", "hessian"]}, "/diagnostics/1", "'curvature'"),
    ({"diagnostics": ["gradients", "gradients"]}, "/diagnostics", "named twice"),
    ({"seeds": True}, "/seeds", "valid integer, got true"),
    ({"seeds": 33}, "/seeds", "less than or equal to 32, got 33"),
    ({"seed": -1}, "/seed", "greater than or equal to 0, got -1"),
    ({"seed": 1.0}, "/seed", "valid integer, got 1.0"),
    ({"device": "gpu"}, "/device", "'cuda'"),
    ({"mode": "training"}, "/mode", "'train'"),
    ({"lr_scales": True}, "/lr_scales", "object, got true"),
    ({"lr_scales": {"probe_steps": 10**6}}, "/lr_scales/probe_steps", "less than or equal to 2000"),
    ({"precision": {"compute": "fp16"}}, "/precision/compute", "'float16'"),
    ({"precision": {"loss_scale": -1}}, "/precision/loss_scale", "greater than 0"),
    ({"labels": {"": "x"}}, "/labels/", "match pattern"),
    ({"labels": {"team": 3}}, "/labels/team", "valid string, got 3"),
    ({"policy": ""}, "/policy", "at least 1 character"),
    ({"data": []}, "/data", "object"),
    (inputs(), "/data/inputs", "at least 1 item"),
    (inputs({"shape": [2, 3]}), "/data/inputs/0/kind", "required field"),
    (inputs({"kind": "gaussian", "shape": [2]}), "/data/inputs/0/kind", "known are normal"),
    (inputs(normal(2, 0)), "/data/inputs/0/shape/1", "greater than or equal to 1, got 0"),
    (inputs(normal(2**31, 2)), "/data/inputs/0/shape/0", "less than or equal to 2147483647"),
    (inputs(normal(2**20, 2**20)), "/data/inputs/0", "use a smaller batch"),
    (inputs(normal(2, dtype="int64")), "/data/inputs/0/dtype", "'float32'"),
    (inputs(normal(2, 4), normal(3, 4)), "/data", "same number of samples"),
    (inputs(normal()), "/data", "at least one axis"),
    (inputs({"kind": "integers", "shape": [2], "low": 5, "high": 5}), "/data/inputs/0", "low must be smaller"),
    ({"data": {"inputs": [normal(2, 4)], "samples": 3}}, "/data", "their first axis is the batch"),
    ({"data": {"samples": 0}}, "/data/samples", "greater than or equal to 1"),
    ({"data": {"target": {"kind": "classes"}}}, "/data/target/num_classes", "required field"),
    ({"loss": "mse", "data": {"target": {"kind": "classes", "num_classes": 3}}}, "/data/target/kind", "or binary"),
    ({"loss": "nll", "data": {"target": {"kind": "normal"}}}, "/data/target/kind", "takes classes, not normal"),
    ({"data": {"artifact": "abc", "inputs": ["x"]}}, "/data/artifact", "match pattern"),
    ({"data": {"artifact": DIGEST}}, "/data/inputs", "required field"),
    ({"data": {"artifact": DIGEST, "inputs": ["x"], "samples": 3}}, "/data/samples", "unknown field"),
    (layers({"type": "Linaer", "out_features": 3}), f"{ROW}/0/type", "did you mean 'Linear'"),
    (layers({"type": "Xyz"}), f"{ROW}/0/type", "known are"),
    (layers({"out_features": 3}), f"{ROW}/0/type", "required field"),
    (layers("Linear"), f"{ROW}/0", "object"),
    (layers({"type": "Linear"}), f"{ROW}/0/out_features", "required field"),
    (layers(LINEAR | {"out_feature": 3}), f"{ROW}/0/out_feature", "unknown field"),
    (layers(LINEAR | {"out_features": 2**40}), f"{ROW}/0/out_features", "less than or equal to 2147483647"),
    (layers(LINEAR | {"out_features": 2**31 - 1}, shape=(2**20,)), f"{ROW}/0", "parameters"),
    (layers(LINEAR | {"in_features": 5}), f"{ROW}/0/in_features", "expects 5 input features but gets 4 from the input"),
    (layers(LINEAR, LINEAR | {"in_features": 4}), f"{ROW}/1/in_features", "but gets 3 from layers[0]"),
    (layers({"type": "Conv2d", "out_channels": 2, "kernel_size": 3}), f"{ROW}/0", "channels, height, width"),
    (layers({"type": "Softmax", "dim": 0}), f"{ROW}/0/dim", "samples must not be mixed"),
    (layers({"type": "Embedding", "num_embeddings": 3, "embedding_dim": 2}), f"{ROW}/0", "dtype to int64"),
    (layers(REPEATED), ROW + "/0" + "/layers/0" * 6, "more than 4000 layer calls"),
    (layers({"repeat": 0, "layers": [LINEAR]}), f"{ROW}/0/repeat", "greater than or equal to 1"),
    (layers(LINEAR | {"name": "a.b"}), f"{ROW}/0/name", "match pattern"),
    (layers(LINEAR | {"name": "forward"}), f"{ROW}/0/name", "taken by torch.nn.Module"),
    (layers(LINEAR | {"name": "7"}), f"{ROW}/0/name", "add a letter"),
    (layers(LINEAR | {"name": "a"}, LINEAR | {"name": "a"}), f"{ROW}/1/name", "already the name of layers[0]"),
    (layers(LINEAR | {"tie": "b"}), f"{ROW}/0/tie", "no layer is named 'b'"),
    (layers(LINEAR | {"name": "a"}, LINEAR | {"tie": "a"}), f"{ROW}/1/tie", "must agree to be shared"),
    (layers(LINEAR | {"init": {"weight": {"name": "he_"}}}), f"{ROW}/0/init/weight/name", "known are"),
    (layers(LINEAR | {"init": {"weight": {"name": "dirac_"}}}), f"{ROW}/0/init/weight", "3 to 5 axes"),
    (layers(LINEAR | {"init": {"residual": {"name": "eye_"}}}), f"{ROW}/0/init/residual", "does not exist"),
    (layers({"type": "ReLU", "init": {"weight": {"name": "ones_"}}}), f"{ROW}/0/init/weight", "does not exist"),
    (layers({"type": "Residual", "layers": [LINEAR]}), f"{ROW}/0", "its input has [4], its layers give [3]"),
    (layers({"type": "Concat", "branches": [[LINEAR], []], "dim": 2}), f"{ROW}/0/dim", "no axis"),
    (
        layers(LINEAR) | {"data": {"target": {"kind": "classes", "num_classes": 4}}},
        "/data/target/num_classes",
        "the spec's output has 3",
    ),
    (layers(LINEAR) | inputs(normal(8, 5)), "/data/inputs/0/shape", "sizes would differ"),
    (layers(LINEAR) | inputs(normal(8, 4), normal(8, 4)), "/data/inputs", "keep one"),
    (layers(LINEAR) | inputs({"kind": "integers", "shape": [8, 4], "high": 3}), "/data/inputs/0/dtype", "give float"),
    (layers(LINEAR) | {"data": {"artifact": DIGEST, "inputs": ["x", "y"]}}, "/data/inputs", "keep one"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "pointer", "word"), WRONG, ids=[f"{place}-{word}"[:60] for _, place, word in WRONG])
def test_a_wrong_field_is_named_once_with_what_to_change(more: dict[str, Any], pointer: str, word: str) -> None:
    with pytest.raises(ProblemError) as caught:
        request(**more)
    assert caught.value.code == "invalid_request"
    (error,) = caught.value.errors
    assert error.pointer == pointer
    assert word in error.detail
    assert len(error.detail) < 1000


def test_containers_nest_as_deep_as_json_may() -> None:
    deep: dict[str, Any] = LINEAR
    for _ in range(29):
        deep = {"type": "Sequential", "layers": [deep]}
    request(**layers(deep))
    with pytest.raises(ProblemError, match="nested deeper than 64 levels"):
        request(**layers({"type": "Sequential", "layers": [{"type": "Sequential", "layers": [deep]}]}))


def test_the_headline_counts_the_fields_that_are_named() -> None:
    with pytest.raises(ProblemError) as caught:
        request(**layers(LINEAR | {"out_features": 2**40}))  # an item that is wrong makes its list too short as well
    assert len(caught.value.errors) == 1
    assert caught.value.detail == "one field is wrong"


@pytest.mark.parametrize("loss", ["mse", "l1", "huber", "bce_with_logits", "output_mean", "random_cotangent"])
def test_other_losses_take_values_or_ignore_the_target(loss: str) -> None:
    assert request(loss=loss, data={"target": {"kind": "normal"}}).loss == loss


def test_classes_below_the_outputs_are_fine() -> None:
    assert request(**layers(LINEAR), data={"target": {"kind": "classes", "num_classes": 2}}).loss == "cross_entropy"


def test_several_wrong_fields_are_all_named() -> None:
    with pytest.raises(ProblemError) as caught:
        request(seeds=0, device="gpu", loss="mean")
    assert {error.pointer for error in caught.value.errors} == {"/seeds", "/device", "/loss"}
    assert caught.value.detail == "3 fields are wrong"


def test_another_length_is_fine_where_the_same_network_takes_it() -> None:
    lstm = {"type": "LSTM", "hidden_size": 4}
    request(**layers(lstm, shape=(5, 3)), **inputs(normal(8, 9, 3)))


def test_tokens_of_a_request_stay_below_the_vocabulary() -> None:
    spec = {
        "input": {"shape": [5], "dtype": "int64"},
        "layers": [{"type": "Embedding", "num_embeddings": 7, "embedding_dim": 2}],
    }
    tokens = {"kind": "integers", "shape": [8, 5], "high": 7}
    request(model={"spec": spec}, **inputs(tokens))
    for change, field in (({"high": 8}, "high"), ({"low": -1}, "low")):
        with pytest.raises(ProblemError) as caught:
            request(model={"spec": spec}, **inputs(tokens | change))
        assert [error.pointer for error in caught.value.errors] == [f"/data/inputs/0/{field}"]


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({}, "give either spec or torchscript"),
        ({"spec": MLP, "torchscript": DIGEST}, "give either spec or torchscript"),
        ({"torchscript": DIGEST, "weights": DIGEST}, "carries its own"),
        ({"spec": MLP, "input": {"shape": [3]}}, "a spec has its own input"),
    ],
)
def test_a_registration_names_one_source(document: dict[str, Any], word: str) -> None:
    with pytest.raises(ProblemError) as caught:
        from_python(ModelRegistration, document)
    assert word in caught.value.errors[0].detail
