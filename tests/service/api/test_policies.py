"""Policies: stored in versions, checked against the rules, exported as a file."""

from __future__ import annotations

import json

import pytest
from flask.testing import FlaskClient

from gradinspect.contracts.document import from_json
from gradinspect.contracts.request.policy import Policy
from gradinspect.rules import RULE_IDS, check_policy
from tests.support.callers import pointers, problem

STRICT = {"name": "strict", "rules": {"vanishing_signal": {"warn": 0.01, "fail": 1e-4}}}


def test_the_default_policy_is_readable_and_listed_first(client: FlaskClient) -> None:
    found = client.get("/v1/policies/default").get_json()
    assert (found["id"], found["version"], found["rules"], found["created_at"]) == ("default", 1, {}, None)
    assert client.get("/v1/policies").get_json() == {"items": [found], "next_cursor": None}


def test_a_policy_is_stored_in_versions(client: FlaskClient) -> None:
    first = client.post("/v1/policies", json=STRICT)
    assert first.status_code == 201
    assert first.headers["Location"] == f"/v1/policies/{first.get_json()['id']}"
    second = client.post("/v1/policies", json={**STRICT, "version": 2})
    assert client.get(first.headers["Location"]).get_json() == first.get_json()
    listed = client.get("/v1/policies").get_json()["items"]
    assert [item["id"] for item in listed] == ["default", second.get_json()["id"], first.get_json()["id"]]


def test_a_version_that_exists_is_a_conflict(client: FlaskClient) -> None:
    client.post("/v1/policies", json=STRICT)
    problem(client.post("/v1/policies", json=STRICT), "conflict")
    problem(client.post("/v1/policies", json={"name": "default"}), "conflict")


def test_a_policy_is_exported_with_every_threshold(client: FlaskClient) -> None:
    place = client.post("/v1/policies", json=STRICT).headers["Location"]
    answer = client.get(f"{place}?format=file")
    exported = check_policy(from_json(Policy, answer.get_data()))
    assert set(exported.rules) == set(RULE_IDS)
    assert (exported.rules["vanishing_signal"].warn, exported.rules["vanishing_signal"].fail) == (0.01, 1e-4)
    assert 'filename="strict-1.json"' in answer.headers["Content-Disposition"]
    again = client.post("/v1/policies", json={**json.loads(answer.get_data()), "version": 2})
    assert again.status_code == 201


def test_a_deleted_policy_is_not_found(client: FlaskClient) -> None:
    place = client.post("/v1/policies", json=STRICT).headers["Location"]
    assert client.delete(place).status_code == 204
    problem(client.get(place), "not_found")
    problem(client.delete(place), "not_found")
    problem(client.delete("/v1/policies/default"), "conflict")


@pytest.mark.parametrize(
    ("rules", "pointer"),
    [
        ({"vanishing": {}}, "/rules/vanishing"),
        ({"vanishing_signal": {"warn": 1e-9, "fail": 1e-3}}, "/rules/vanishing_signal/fail"),
        ({"vanishing_signal": {"warn": 1e-9}}, "/rules/vanishing_signal/warn"),  # below fail's default
        ({"dead_units": {"warn": 1.5}}, "/rules/dead_units/warn"),
        ({"update_ratio": {"warn": 1.0}}, "/rules/update_ratio/warn"),
        ({"non_finite": {"fail": 1.0}}, "/rules/non_finite/fail"),
        ({"vanishing_signal": {"severity": "warn"}}, "/rules/vanishing_signal/severity"),
    ],
)
def test_an_invalid_policy_names_the_rule_and_field(
    client: FlaskClient, rules: dict[str, object], pointer: str
) -> None:
    found = problem(client.post("/v1/policies", json={"name": "wrong", "rules": rules}), "invalid_request")
    assert pointer in pointers(found)
