"""Whole specs: names, repetitions, ties, inheritance, and the canonical form of equal specs."""

from __future__ import annotations

from typing import Any

import pytest

from gradinspect.contracts.document import from_json, from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.plan import Call
from gradinspect.contracts.wire.spec_description import describe_spec
from tests.support.networks.layer_specimens import spec


def read(document: dict[str, Any]) -> ModelSpec:
    """Validate a spec."""
    return from_python(ModelSpec, document, code="invalid_spec")


def calls(document: dict[str, Any]) -> list[Call]:
    """Return the layer calls of a spec."""
    return [step for step in read(document).plan.calls() if isinstance(step, Call)]


LINEAR = {"type": "Linear", "out_features": 4}


def test_the_spec_of_the_documentation_is_nine_sigmoid_layers_and_a_head() -> None:
    document = spec(
        [784],
        {"repeat": 9, "layers": [{"type": "Linear", "in_features": 784, "out_features": 256}, {"type": "Sigmoid"}]},
        {"type": "Linear", "in_features": 256, "out_features": 10, "name": "head"},
        init={"weight": {"name": "xavier_uniform_", "gain": 1.0}, "bias": {"name": "zeros_"}},
    )
    found = calls(document)
    assert [call.path for call in found] == [*map(str, range(18)), "head"]
    assert found[2].parameters == {"weight": (256, 256), "bias": (256,)}
    assert read(document).plan.parameters == (784 * 256 + 256) + 8 * (256 * 256 + 256) + (256 * 10 + 10)


def test_names_are_part_of_paths_and_copies_of_a_repeat_are_numbered() -> None:
    block = {"type": "Sequential", "name": "block", "layers": [LINEAR | {"name": "inner"}, {"type": "ReLU"}]}
    found = calls(spec([4], {"repeat": 2, "layers": [block]}, LINEAR | {"name": "head"}))
    assert [call.path for call in found] == ["block_0.inner_0", "block_0.1", "block_1.inner_1", "block_1.1", "head"]


def test_a_tie_inside_a_repeat_prefers_its_own_copy() -> None:
    rows = [LINEAR | {"name": "first"}, LINEAR | {"tie": "first"}]
    found = calls(spec([4], {"repeat": 2, "layers": rows}))
    assert [call.tied_to for call in found] == [None, "first_0", None, "first_1"]
    # Two weights and four biases: shared weights count once.
    assert read(spec([4], {"repeat": 2, "layers": rows})).plan.parameters == 2 * 16 + 4 * 4


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        ([LINEAR | {"name": "a", "tie": "a"}], "its own weight"),
        (
            [LINEAR | {"name": "a"}, LINEAR | {"name": "b", "tie": "a"}, LINEAR | {"tie": "b"}],
            "name that layer instead",
        ),
        ([{"type": "ReLU", "name": "a"}, LINEAR | {"tie": "a"}], "has no weight to share"),
        ([LINEAR | {"name": "a"}, {"type": "ReLU", "tie": "a"}], "has no weight to share"),
        ([LINEAR | {"name": "first"}, LINEAR | {"tie": "frist"}], "did you mean 'first'"),
        ([LINEAR | {"name": "a"}, LINEAR | {"tie": "a", "init": {"weight": {"name": "eye_"}}}], "where it is owned"),
    ],
)
def test_an_impossible_tie_is_refused(rows: list[dict[str, Any]], word: str) -> None:
    with pytest.raises(ProblemError) as caught:
        read(spec([4], *rows))
    assert word in caught.value.errors[0].detail


def test_frozen_reaches_everything_inside_a_container() -> None:
    frozen = {"type": "Residual", "frozen": True, "layers": [LINEAR, {"type": "Sequential", "layers": [LINEAR]}]}
    assert [call.frozen for call in calls(spec([4], frozen, LINEAR))] == [True, True, False]


def test_the_smallest_embedding_bounds_the_tokens_that_are_drawn() -> None:
    document = spec([5], {"type": "Embedding", "num_embeddings": 7, "embedding_dim": 4}, tokens=True)
    assert read(document).input.high == 7
    document["input"]["high"] = 3
    assert read(document).input.high == 3
    document["input"]["high"] = 8
    with pytest.raises(ProblemError) as caught:
        read(document)
    assert caught.value.errors[0].pointer == "/input/high"


def test_tokens_must_pass_an_embedding() -> None:
    with pytest.raises(ProblemError) as caught:
        read(spec([5], {"type": "Flatten"}, tokens=True))
    assert "start with an Embedding" in caught.value.errors[0].detail


def test_equal_specs_are_written_in_one_form() -> None:
    short = read(spec([4], LINEAR))
    long = read(spec([4], LINEAR | {"bias": True, "frozen": False, "name": None}))
    assert short.model_dump_json(exclude_none=True) == long.model_dump_json(exclude_none=True)
    assert from_json(ModelSpec, long.model_dump_json(exclude_none=True)) == long


def test_a_null_with_a_meaning_is_stored() -> None:
    document = spec([4], {"type": "BatchNorm1d", "momentum": None})
    stored = read(document).model_dump_json(exclude_none=True)
    assert '"momentum":null' in stored
    assert from_json(ModelSpec, stored) == read(document)


def test_a_path_too_long_for_a_report_is_refused() -> None:
    deep: dict[str, Any] = LINEAR
    for level in range(4):
        deep = {"type": "Sequential", "name": f"{level}" + "x" * 63, "layers": [deep]}
    with pytest.raises(ProblemError) as caught:
        read(spec([4], deep))
    assert "use shorter names" in caught.value.errors[0].detail


def test_a_description_lists_what_would_be_built() -> None:
    described = describe_spec(read(spec([4], LINEAR | {"name": "a"}, {"type": "Residual", "layers": [LINEAR]})))
    assert [(layer.name, layer.kind, layer.output_shape, layer.parameters) for layer in described.layers] == [
        ("a", "Linear", (4,), 20), ("1.0", "Linear", (4,), 20), ("1", "Residual", (4,), 0),
    ]  # fmt: skip
    assert (described.parameters, described.parameter_bytes, described.output_shape) == (40, 160, (4,))
    assert described.activation_bytes_per_sample == 3 * 4 * 4


def test_an_input_of_too_many_elements_is_refused() -> None:
    with pytest.raises(ProblemError) as caught:
        read(spec([2**20, 2**20], {"type": "Mean", "dim": 1}))
    assert caught.value.errors[0].pointer == "/input"
    assert "use a smaller one" in caught.value.errors[0].detail
