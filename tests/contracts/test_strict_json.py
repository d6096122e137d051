"""Strict JSON: errors with the position of the mistake."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from gradinspect.contracts.document import (
    MAX_INTEGER,
    MAX_JSON_DEPTH,
    from_json,
    from_python,
    parse_strict_json,
)
from gradinspect.contracts.field_errors import pointer
from gradinspect.contracts.optimizers import Sgd
from gradinspect.contracts.problems import FAILURES, PROBLEMS, InspectionError, ProblemError
from gradinspect.contracts.request.request import InspectionRequest
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.wire.resources import ModelRegistration


def refused(text: bytes | str) -> str:
    """Return why `text` is not strict JSON."""
    with pytest.raises(ProblemError) as caught:
        parse_strict_json(text)
    assert caught.value.code == "malformed_json"
    assert caught.value.problem.status == 400
    return caught.value.detail


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value at line 1, column 1"),
        ('{"a": 1,}', "line 1, column"),
        ('{"a": 1} {"b": 2}', "Extra data"),
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ('{"x": {"a": 1, "b": 2, "b": 3}}', "the key 'b' is given twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": Infinity}', "Infinity is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        (f'{{"a": {2**63}}}', "does not fit in 64 bits"),
        ('{"a": ' + "9" * 10_000 + "}", "does not fit in 64 bits"),
        ("[" * 100 + "]" * 100, f"nested deeper than {MAX_JSON_DEPTH}"),
        ("[" * 100_000, f"nested deeper than {MAX_JSON_DEPTH}"),
        (b"\xff\xfe{}", "not UTF-8: byte 0"),
        ("{'a': 1}", "Expecting property name"),
    ],
)
def test_text_that_is_not_strict_json_is_refused_with_the_position(text: bytes | str, reason: str) -> None:
    assert reason in refused(text)


def test_a_byte_order_mark_is_refused() -> None:
    assert "BOM" in refused(b"\xef\xbb\xbf{}")


def test_a_number_that_overflows_a_double_is_refused_by_its_field() -> None:
    with pytest.raises(ProblemError) as caught:
        from_json(Sgd, '{"type": "sgd", "lr": 1e999}')
    assert [error.pointer for error in caught.value.errors] == ["/lr"]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(values)
def test_every_json_value_reads_back_the_same(value: Any) -> None:
    assert parse_strict_json(json.dumps(value)) == value


@given(st.text() | st.binary())
def test_any_text_is_read_or_refused_as_malformed(text: str | bytes) -> None:
    try:
        parse_strict_json(text)
    except ProblemError as problem:
        refusal = problem.code
    else:
        return
    assert refusal == "malformed_json"


@pytest.mark.parametrize("text", [r'{"a": "\ud800"}', r'{"\uDFFF": 1}', r'["\ud83d \ude00"]'])
def test_a_lone_surrogate_is_refused(text: str) -> None:
    with pytest.raises(ProblemError, match="is half a character") as caught:
        parse_strict_json(text)
    assert caught.value.code == "malformed_json"


def test_an_escaped_surrogate_pair_is_one_character() -> None:
    assert parse_strict_json(r'"\ud83d\ude00"') == "\N{GRINNING FACE}"


def test_pointers_are_escaped_as_rfc_6901_says() -> None:
    assert pointer(["a/b", "c~d", 3]) == "/a~1b/c~0d/3"
    assert pointer([]) == ""


def test_python_values_take_the_same_path() -> None:
    as_json = from_json(InspectionRequest, '{"model": {"spec": {"preset": "mlp", "widths": [8, 8]}}}')
    assert from_python(InspectionRequest, {"model": {"spec": {"preset": "mlp", "widths": (8, 8)}}}) == as_json
    with pytest.raises(ProblemError, match="cannot be written as JSON"):
        from_python(InspectionRequest, {"model": object()})
    with pytest.raises(ProblemError, match="cannot be written as JSON"):
        from_python(Sgd, {"type": "sgd", "lr": float("nan")})


def test_codes_are_from_the_tables() -> None:
    for code, problem in PROBLEMS.items():
        assert code == code.lower()
        assert 400 <= problem.status < 600
        assert problem.title
        assert problem.hint.endswith(".")
    assert InspectionError("memory_limit", "x").remedy == FAILURES["memory_limit"]
    with pytest.raises(ValueError, match="unknown failure code"):
        InspectionError("nonsense", "x")


def test_the_text_of_a_problem_has_its_detail_and_its_fields() -> None:
    with pytest.raises(ProblemError) as caught:
        from_python(InspectionRequest, {"model": {"spec": {"preset": "mlp"}}, "seeds": 0})
    assert str(caught.value) == "one field is wrong\n  /seeds: Input should be greater than or equal to 1, got 0"


SPEC = {"input": {"shape": [4]}, "layers": [{"type": "Linear", "out_features": 3}]}


@pytest.mark.parametrize(
    ("model", "document", "where", "suggestion"),
    [
        (ModelSpec, SPEC | {"lyers": []}, "/lyers", "layers"),
        (ModelSpec, SPEC | {"layers": [{"type": "Linear", "out_featurs": 3}]}, "/layers/0/out_featurs", "out_features"),
        (ModelSpec, SPEC | {"layers": [{"repeat": 2, "layres": []}]}, "/layers/0/layres", "layers"),
        (
            ModelSpec,
            SPEC | {"layers": [{"type": "Concat", "branches": [[{"type": "ReLU", "nam": "a"}]]}]},
            "/layers/0/branches/0/0/nam",
            "name",
        ),
        (ModelSpec, SPEC | {"init": {"weigth": {"name": "zeros_"}}}, "/init/weigth", "weight"),
        (ModelSpec, {"preset": "mlp", "widht": 4}, "/widht", "width"),
        (InspectionRequest, {"model": {"spec": SPEC | {"lyers": []}}}, "/model/spec/lyers", "layers"),
        (InspectionRequest, {"model": {"spec": SPEC}, "diagnostcs": ["noise"]}, "/diagnostcs", "diagnostics"),
        (ModelRegistration, {"spec": SPEC | {"lyers": []}}, "/spec/lyers", "layers"),
    ],
)
def test_a_misspelt_field_gets_a_suggestion_from_the_fields_of_its_object(
    model: type[BaseModel], document: object, where: str, suggestion: str
) -> None:
    with pytest.raises(ProblemError) as caught:
        from_python(model, document)
    details = {error.pointer: error.detail for error in caught.value.errors}
    assert details[where] == f"unknown field; did you mean {suggestion!r}?"


def test_a_field_that_resembles_no_other_is_called_unknown() -> None:
    with pytest.raises(ProblemError) as caught:
        from_python(ModelSpec, SPEC | {"zzz": 1})
    assert caught.value.errors[0].detail == "unknown field; remove it or check its spelling"
