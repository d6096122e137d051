"""Comparison of two inspections over HTTP; its contents are tested with the rules."""

from __future__ import annotations

from flask.testing import FlaskClient

from gradinspect.contracts.report.comparison import Comparison
from gradinspect.testing.measurements import chain
from tests.support.callers import REQUEST, pointers, problem
from tests.support.specimens import Ended


def test_two_inspections_are_compared(client: FlaskClient, ended: Ended) -> None:
    base, head = ended(chain((0.9,) * 5)), ended(chain((0.1,) * 5))
    answer = client.get(f"/v1/comparisons?base={base}&head={head}")
    found = Comparison.model_validate_json(answer.get_data())
    assert (found.base.inspection, found.head.inspection) == (base, head)
    assert (found.change, found.verdict_worse) == ("worse", True)
    assert [finding.rule for finding in found.findings.new] == ["vanishing_signal"]
    tag = answer.headers["ETag"]
    again = client.get(f"/v1/comparisons?base={base}&head={head}", headers={"If-None-Match": tag})
    assert again.status_code == 304


def test_both_are_judged_by_the_requested_policy(client: FlaskClient, ended: Ended) -> None:
    base, head = ended(chain((0.9,) * 5)), ended(chain((0.1,) * 5))
    client.post("/v1/policies", json={"name": "blind", "rules": {"vanishing_signal": {"enabled": False}}})
    answer = client.get(f"/v1/comparisons?base={base}&head={head}&policy=blind")
    found = Comparison.model_validate_json(answer.get_data())
    assert not found.verdict_worse
    assert found.head.policy is not None
    assert found.head.policy.name == "blind"
    wrong = problem(client.get(f"/v1/comparisons?base={base}&head={head}&policy=nobody"), "invalid_request")
    assert pointers(wrong) == ["/query/policy"]


def test_both_inspections_are_required_and_must_have_a_report(client: FlaskClient, ended: Ended) -> None:
    base = ended()
    assert pointers(problem(client.get(f"/v1/comparisons?base={base}"), "invalid_request")) == ["/query/head"]
    assert pointers(problem(client.get("/v1/comparisons?base=1&head=2"), "invalid_request")) == [
        "/query/base", "/query/head",
    ]  # fmt: skip
    absent = "insp_00000000-0000-7000-8000-000000000000"
    problem(client.get(f"/v1/comparisons?base={base}&head={absent}"), "not_found")
    waiting = client.post("/v1/inspections", json=REQUEST).get_json()["id"]
    problem(client.get(f"/v1/comparisons?base={base}&head={waiting}"), "not_finished")
