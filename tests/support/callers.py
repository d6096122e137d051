"""Shared by tests of the API: a valid body, and assertions about problems."""

from __future__ import annotations

from typing import Any

from werkzeug.test import TestResponse

from gradinspect.contracts.problems import PROBLEMS

SPEC: dict[str, Any] = {
    "input": {"shape": [16]},
    "layers": [{"type": "Linear", "out_features": 8}, {"type": "ReLU"}, {"type": "Linear", "out_features": 4}],
}
REQUEST: dict[str, Any] = {"model": {"spec": SPEC}}


def problem(response: TestResponse, code: str) -> dict[str, Any]:
    """Assert that an answer is the problem of this code; return its document."""
    assert response.mimetype == "application/problem+json", response.get_data(as_text=True)[:500]
    document: dict[str, Any] = response.get_json()
    assert document["code"] == code, document
    row = PROBLEMS[code]
    assert (response.status_code, document["status"]) == (row.status, row.status)
    assert (document["title"], document["hint"]) == (row.title, row.hint)
    assert document["type"].startswith("/docs#problem-")
    assert document["request_id"] == response.headers["X-Request-Id"]
    assert document["detail"]
    return document


def pointers(document: dict[str, Any]) -> list[str]:
    """Return the pointers of the wrong fields."""
    return [error["pointer"] for error in document["errors"]]
