"""The pages of training runs: empty, running, stopped, and with names that a client chose."""

from __future__ import annotations

import json

from flask.testing import FlaskClient

from service.store.report_files import report_json
from tests.support.specimens import layer, make_report


def page(client: FlaskClient, path: str, status: int = 200) -> str:
    answer = client.get(path, headers={"Accept": "text/html"})
    assert answer.status_code == status
    assert answer.mimetype == "text/html"
    return answer.get_data(as_text=True)


def pushed_run(client: FlaskClient, name: str = "resnet") -> str:
    run = str(client.post("/v1/runs", json={"name": name, "every": 20}).get_json()["id"])
    for step in (0, 20):
        layers = tuple(layer(depth, cumulative_backward_gain=0.5**depth / (step + 1)) for depth in range(4))
        body = {"report": json.loads(report_json(make_report(layers))), "run": run, "step": step}
        assert client.post("/v1/reports", json=body).status_code == 201
    return run


def test_the_empty_list_says_how_to_watch_a_run(client: FlaskClient) -> None:
    text = page(client, "/runs")
    assert "watch(model, every=100, push=" in text


def test_a_run_shows_its_charts_and_its_steps(client: FlaskClient) -> None:
    run = pushed_run(client)
    text = page(client, f"/runs/{run}")
    assert 'class="signal-over-time"' in text
    assert 'class="numbers-over-steps"' in text
    assert "At step" not in text
    assert "is running: step 20 was the last one watched" in text
    for step in client.get(f"/v1/runs/{run}").get_json()["points"]:
        assert f"/inspections/{step['inspection']}" in text
        assert f"step {step['step']} of" in page(client, f"/inspections/{step['inspection']}")
    assert f"/runs/{run}" in page(client, "/runs")


def test_a_stopped_run_names_the_finding(client: FlaskClient) -> None:
    run = pushed_run(client)
    end = {"outcome": "stopped", "step": 20, "rule": "non_finite", "detail": "NaN in `2`"}
    client.post(f"/v1/runs/{run}/end", json=end)
    text = page(client, f"/runs/{run}")
    assert "Stopped at step 20 by <code>non_finite</code>." in text
    assert "stopped by <code>non_finite</code>" in page(client, "/runs")


def test_names_of_runs_are_escaped(client: FlaskClient) -> None:
    run = pushed_run(client, "<script>alert(1)</script>")
    for path in ("/runs", f"/runs/{run}"):
        assert "<script>alert" not in page(client, path)


def test_a_run_that_does_not_exist_is_a_page_that_says_so(client: FlaskClient) -> None:
    assert "here is no run" in page(client, "/runs/run_00000000-0000-7000-8000-000000000000", 404)
