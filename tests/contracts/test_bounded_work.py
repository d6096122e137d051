"""The work on a document is bounded by its bytes and its number of values, whatever is wrong with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradinspect.contracts import field_errors
from gradinspect.contracts.document import MAX_VALUES, from_json, from_request, refuse_many_values
from gradinspect.contracts.field_errors import MAX_ERRORS, MAX_KEY
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionRequest
from gradinspect.contracts.spec.walk import MAX_TENSORS
from gradinspect.contracts.spelling import MAX_LETTERS, did_you_mean
from gradinspect.contracts.wire.resources import ModelRegistration

BODIES = (InspectionRequest, ModelRegistration, Policy)
MOST_CALLS = 400_000  # of Python functions, for one body; a quadratic search over 6,500 errors makes 20 millions


def fill(template: str, text: str) -> str:
    return template.replace("@", text)


def spec(*layers: str) -> str:
    return fill('{"model":{"spec":{"input":{"shape":[8]},"layers":[@]}}}', ",".join(layers))


def repeated(item: str, count: int) -> str:
    return ",".join([item] * count)


HOSTILE: dict[str, Callable[[int], str]] = {
    "unknown keys": lambda n: "{" + ",".join(f'"k{i}":1' for i in range(n)) + "}",
    "bad labels": lambda n: fill('{"model":"x","labels":{@}}', ",".join(f'" {i}":1' for i in range(n))),
    "bad items": lambda n: fill('{"model":"x","diagnostics":[@]}', repeated("1", n)),
    "layers that are none": lambda n: spec(repeated("1", n)),
    "layers of an unknown type": lambda n: spec(repeated('{"type":"Lineer"}', n // 2)),
    "branches that are none": lambda n: spec(fill('{"type":"Concat","branches":[@]}', repeated("[1]", n // 2))),
    "sizes that are none": lambda n: spec(
        fill('{"type":"Conv2d","out_channels":1,"kernel_size":[@]}', repeated('"a"', n))
    ),
    "a list that is too short": lambda n: fill(
        '{"model":"x","optimizer":{"type":"adam","betas":[@]}}', repeated("{}", n // 2)
    ),
}


def outcome(text: str, model: Any = InspectionRequest) -> ProblemError | None:
    try:
        from_request(model, text.encode())
    except ProblemError as error:
        return error
    return None


def count_calls(act: Callable[[], object]) -> int:
    """Count the calls of Python functions: a measure of work that no other process can disturb."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize("name", HOSTILE)
def test_wrong_fields_are_counted_and_the_first_fifty_listed_with_linear_work(name: str) -> None:
    small, large = HOSTILE[name](1500), HOSTILE[name](6000)
    error = outcome(large)
    assert error is not None
    assert error.code == "invalid_request"
    assert 1 <= len(error.errors) <= MAX_ERRORS
    assert count_calls(lambda: outcome(large)) <= 5 * count_calls(lambda: outcome(small)) + 1000


def test_the_headline_counts_the_fields_that_are_not_listed() -> None:
    error = outcome(HOSTILE["bad items"](200))
    assert error is not None
    assert len(error.errors) == MAX_ERRORS
    assert error.detail == "202 fields are wrong; the first 50 are listed"


def test_a_body_of_more_values_than_a_spec_needs_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gradinspect.contracts.document.parse_strict_json", None)
    error = outcome(HOSTILE["bad items"](MAX_VALUES))
    assert error is not None
    assert error.code == "too_large"
    assert f"more than {MAX_VALUES} values" in error.detail


def test_commas_and_brackets_in_strings_are_no_values() -> None:
    refuse_many_values(json.dumps({"a": '\\"' + ",[{" * MAX_VALUES, "b\\": '","' * MAX_VALUES}).encode())
    with pytest.raises(ProblemError):
        refuse_many_values(json.dumps(["\\"] * MAX_VALUES).encode())


def test_a_body_that_nests_too_deep_is_named_so_whatever_its_length() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000):
        error = outcome(text)
        assert error is not None
        assert (error.code, error.detail) == ("malformed_json", "nested deeper than 64 levels")


def test_a_document_of_our_own_may_hold_more_values() -> None:
    text = HOSTILE["bad items"](2 * MAX_VALUES)
    with pytest.raises(ProblemError, match="13002 fields are wrong") as caught:
        from_json(InspectionRequest, text)
    assert len(caught.value.errors) == MAX_ERRORS


def test_errors_that_say_the_same_are_examined_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    examined = 0
    existing = field_errors._existing

    def count(*given: Any, **more: Any) -> list[int | str]:
        nonlocal examined
        examined += 1
        return existing(*given, **more)

    monkeypatch.setattr(field_errors, "_existing", count)
    long = "k" * MAX_KEY  # each pointer shows this part of its key
    error = outcome("{" + ",".join(f'"{long}{i}":1' for i in range(2000)) + "}")
    assert error is not None
    assert examined == field_errors.MAX_EXAMINED


def test_a_long_key_is_shortened_and_not_compared_with_known_names() -> None:
    error = outcome(fill('{"model":"x","@":1}', "loss" * 200_000))
    assert error is not None
    assert max(len(entry.pointer) for entry in error.errors) <= MAX_KEY + 1
    assert did_you_mean("n" * MAX_LETTERS, ["n" * MAX_LETTERS + "m"]) != ""
    assert did_you_mean("n" * (MAX_LETTERS + 1), ["n" * MAX_LETTERS]) == ""


@pytest.mark.parametrize(
    "layer",
    [
        '{"type":"LSTM","hidden_size":8,"num_layers":100}',
        '{"type":"TransformerEncoderLayer","d_model":8,"nhead":2}',
    ],
)
def test_a_repeated_layer_of_many_tensors_is_refused_at_a_bound(layer: str) -> None:
    text = '{"model":{"spec":{"input":{"shape":[4,8]},"layers":[{"repeat":4000,"layers":[@]}]}}}'.replace("@", layer)
    error = outcome(text)
    assert error is not None
    assert f"more than {MAX_TENSORS} parameter tensors" in error.errors[0].detail
    assert count_calls(lambda: outcome(text)) < MOST_CALLS


def test_the_largest_spec_is_planned_with_work_bounded_by_its_calls() -> None:
    text = spec('{"repeat":4000,"layers":[{"type":"Linear","out_features":4}]}')
    assert outcome(text) is None
    assert count_calls(lambda: outcome(text)) < MOST_CALLS


WORDS = st.sampled_from([
    "model", "spec", "input", "shape", "layers", "type", "Linear", "out_features", "repeat", "Sequential", "Residual",
    "Concat", "branches", "init", "weight", "name", "labels", "diagnostics", "data", "inputs", "kind", "normal", "loss",
    "optimizer", "sgd", "adam", "betas", "lr_scales", "policy", "rules", "preset", "mlp", "depth", "tie", "x", "",
])  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-3, 4000), st.floats(-2, 2), WORDS, st.text(max_size=5))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=5)),
    max_leaves=30,
)


@settings(max_examples=150, deadline=None)
@given(
    value=VALUES,
    place=st.sampled_from(["items", "keys", "layers", "branches", "nested"]),
    model=st.sampled_from(BODIES),
)
def test_any_value_repeated_to_the_limit_is_answered_with_bounded_work(value: object, place: str, model: Any) -> None:
    one = json.dumps(value)
    count = max(1, MAX_VALUES // (1 + one.count(",") + one.count("[") + one.count("{")))
    text = {
        "items": fill('{"model":"x","diagnostics":[@]}', repeated(one, count)),
        "keys": "{" + ",".join(f'"k{i}":{one}' for i in range(count)) + "}",
        "layers": spec(repeated(one, count)),
        "branches": spec(fill('{"type":"Concat","branches":[[@]]}', repeated(one, count))),
        "nested": spec('{"repeat":4000,"layers":[' * 15 + one + "]}" * 15),
    }[place]

    def answer() -> None:
        error = outcome(text, model)
        assert error is None or len(error.errors) <= MAX_ERRORS

    assert count_calls(answer) < MOST_CALLS
