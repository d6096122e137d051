"""The client against the real application."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gradinspect.client import (
    Client,
    Conflict,
    InspectionCancelled,
    InspectionFailed,
    InvalidRequest,
    NotFound,
    Report,
    ServiceUnreachable,
    StillRunning,
    UnexpectedAnswer,
)
from gradinspect.contracts.problems import FAILURES, ProblemError
from gradinspect.contracts.report.sections import LrScales, ScaleGroup
from gradinspect.rules import judge
from gradinspect.testing.measurements import chain

SPEC: dict[str, Any] = {
    "input": {"shape": [4]},
    "layers": [{"type": "Linear", "out_features": 3}, {"type": "ReLU"}, {"type": "Linear", "out_features": 2}],
}


def safetensors(**tensors: list[float]) -> bytes:
    """Write a safetensors file of float32 vectors without the library."""
    import struct

    header, body = {}, b""
    for name, values in tensors.items():
        piece = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": [len(values)], "data_offsets": [len(body), len(body) + len(piece)]}
        body += piece
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def test_a_spec_is_inspected_and_its_report_comes_back(client: Client) -> None:
    report = client.inspect(SPEC, optimizer={"type": "sgd", "lr": 0.1}, seed=7)
    assert isinstance(report, Report)
    assert report.verdict == "warn"
    assert report.inspection is not None
    assert "vanish" in report.findings[0].rule
    assert report.to_html().startswith("<!doctype html>")


def test_the_client_returns_the_report_that_the_service_stored(client: Client, worker: Any) -> None:
    report = client.inspect(SPEC)
    stored = worker.here.store.reports.get(f"{report.inspection}.1")
    assert report.model_dump() == stored.model_dump()


def test_a_spec_without_a_name_is_sent_inline_and_one_with_a_name_is_registered(client: Client, watched: Any) -> None:
    client.inspect(SPEC)
    assert watched.called("POST") == ["/v1/inspections"]
    client.inspect(SPEC, name="small")
    assert watched.called("POST")[1:] == ["/v1/models", "/v1/inspections"]
    assert "small" in [model.name for model in client.models.list()]


def test_a_path_is_read_and_a_model_id_is_sent_unchanged(client: Client, watched: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text(json.dumps(SPEC), encoding="utf-8")
    client.inspect(path)
    model = next(client.models.list())
    assert model.name == "net.json"
    client.inspect(model.id)
    assert watched.called("POST").count("/v1/models") == 1
    assert {found.model for found in client.inspections.list()} == {model.id}


def test_a_data_file_is_uploaded_once(client: Client, watched: Any, tmp_path: Path) -> None:
    path = tmp_path / "batch.safetensors"
    path.write_bytes(safetensors(x=[1.0, 2.0], y=[0.0, 1.0]))
    for _ in range(2):
        client.inspect(SPEC, data=path, inputs=["x"], target="y", loss="mse")
    assert len(watched.called("PUT")) == 1


def test_data_without_the_names_of_its_inputs_is_refused_before_it_is_sent(client: Client, watched: Any) -> None:
    with pytest.raises(ProblemError) as caught:
        client.inspect(SPEC, data=b"anything")
    assert caught.value.errors[0].pointer == "/inputs"
    assert watched.requests == []


def test_a_wrong_field_is_refused_before_anything_is_sent(client: Client, watched: Any) -> None:
    with pytest.raises(ProblemError) as caught:
        client.inspect(SPEC, optimizer={"type": "sgd", "lr": -1})
    assert caught.value.errors[0].pointer == "/optimizer/lr"
    assert watched.requests == []


def test_a_missing_file_is_named(client: Client) -> None:
    with pytest.raises(ProblemError, match=r"nowhere\.json"):
        client.inspect("nowhere.json")


def test_each_submission_has_a_new_idempotency_key(client: Client, watched: Any) -> None:
    client.inspect(SPEC)
    client.inspect(SPEC)
    keys = [request.headers["Idempotency-Key"] for request in watched.requests if request.method == "POST"]
    assert len(set(keys)) == 2


def test_the_same_key_gives_the_same_inspection(client: Client) -> None:
    request = {"model": {"spec": SPEC}}
    assert client.inspections.submit(request, key="one").id == client.inspections.submit(request, key="one").id


def test_a_failed_inspection_is_an_exception_with_code_and_remedy(client: Client, worker: Any) -> None:
    worker.failure = ("data_mismatch", "the loss mse compares equal shapes")
    with pytest.raises(InspectionFailed) as caught:
        client.inspect(SPEC)
    assert caught.value.code == "data_mismatch"
    assert "equal shapes" in str(caught.value)
    assert caught.value.remedy == FAILURES["data_mismatch"]


def test_waiting_ends_at_the_time_out_and_the_inspection_continues(client: Client, worker: Any) -> None:
    worker.is_away = True
    with pytest.raises(StillRunning) as caught:
        client.inspect(SPEC, timeout=0.01)
    assert client.inspections.get(caught.value.inspection).status == "queued"
    worker.is_away = False
    assert client.inspections.wait(caught.value.inspection).status == "succeeded"


def test_a_cancelled_inspection_ends_the_wait(client: Client, worker: Any) -> None:
    worker.is_away = True
    submitted = client.inspections.submit({"model": {"spec": SPEC}})
    assert client.inspections.cancel(submitted.id).status == "cancelled"
    with pytest.raises(InspectionCancelled):
        client.inspections.wait(submitted.id)


def test_an_interrupt_cancels_what_was_submitted(client: Client, worker: Any) -> None:
    worker.is_away = True

    def interrupt(_stage: str, _fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.inspect(SPEC, progress=interrupt)
    assert [found.status for found in client.inspections.list()] == ["cancelled"]


def test_progress_is_reported(client: Client) -> None:
    heard: list[tuple[str, float]] = []
    client.inspect(SPEC, progress=lambda stage, fraction: heard.append((stage, fraction)))
    assert heard
    assert heard[-1][1] == 1.0


def test_events_end_with_the_inspection(client: Client, worker: Any) -> None:
    submitted = client.inspections.submit({"model": {"spec": SPEC}})
    assert [state.status for state in client.inspections.events(submitted.id)][-1] == "succeeded"


def test_a_list_requests_its_pages_when_they_are_needed(client: Client, watched: Any) -> None:
    report = client.inspect(SPEC)
    assert report.inspection is not None
    before = len(watched.requests)
    rows = client.inspections.layers(report.inspection, limit=4)
    assert len(watched.requests) == before
    assert next(rows).depth == 0
    assert len(watched.requests) == before + 1
    assert [row.depth for row in rows] == [1, 2, 3, 4, 5]
    assert len(watched.requests) == before + 2


def test_rows_are_filtered_and_sorted_by_their_numbers(client: Client) -> None:
    report = client.inspect(SPEC)
    assert report.inspection is not None
    weak = client.inspections.layers(report.inspection, cumulative_backward_gain__lt=0.005, sort="-depth")
    assert [row.name for row in weak] == ["2", "1", "0"]
    assert {row.inspection for row in client.layers(kind="Linear")} == {report.inspection}
    biases = client.inspections.parameters(report.inspection, numel=64)
    assert all(row.name.endswith("bias") for row in biases)
    assert next(client.parameters(name="0.weight")).shape == (64, 64)


def test_findings_are_judged_again_under_a_stored_policy(client: Client) -> None:
    report = client.inspect(SPEC)
    assert report.inspection is not None
    stored = client.policies.create({"name": "lenient", "rules": {"vanishing_signal": {"enabled": False}}})
    assert {item.rule for item in client.inspections.findings(report.inspection).items} >= {"vanishing_signal"}
    lenient = client.inspections.findings(report.inspection, policy=stored.id)
    assert "vanishing_signal" not in {item.rule for item in lenient.items}
    assert client.policies.export("lenient" if stored.id == "lenient" else stored.id).name == "lenient"
    assert [policy.name for policy in client.policies.list()] == ["default", "lenient"]
    client.policies.delete(stored.id)
    with pytest.raises(NotFound):
        client.policies.get(stored.id)


def test_a_wrong_policy_is_refused_before_it_is_sent(client: Client, watched: Any) -> None:
    with pytest.raises(ProblemError) as caught:
        client.policies.create({"name": "odd", "rules": {"vanishing_signal": {"warn": "low"}}})
    assert caught.value.errors[0].pointer.startswith("/rules/vanishing_signal")
    assert watched.requests == []


def test_learning_rate_scales_come_as_a_document_and_as_code(client: Client, worker: Any) -> None:
    groups = (ScaleGroup(layer="0", parameters=("0.weight",), scale=2.0),)
    scales = LrScales(verdict="use", method="newton", groups=groups, code="optimizer = None\n")
    worker.measured = chain((0.9,) * 5, lr_scales=scales)
    report = client.inspect(SPEC, lr_scales=True)
    assert report.inspection is not None
    assert client.inspections.lr_scales(report.inspection) == scales
    assert client.inspections.lr_scales_code(report.inspection) == "optimizer = None\n"


def test_scales_that_were_not_requested_are_a_conflict(client: Client) -> None:
    report = client.inspect(SPEC)
    assert report.inspection is not None
    with pytest.raises(Conflict) as caught:
        client.inspections.lr_scales(report.inspection)
    assert caught.value.code == "not_requested"


def test_two_inspections_are_compared(client: Client, worker: Any) -> None:
    base = client.inspect(SPEC)
    worker.measured = chain((0.9,) * 5)
    head = client.inspect(SPEC)
    assert base.inspection is not None
    assert head.inspection is not None
    assert client.compare(base.inspection, head.inspection).change == "better"


def test_artifacts_are_uploaded_read_downloaded_and_deleted(client: Client) -> None:
    content = safetensors(x=[1.0, 2.0, 3.0])
    stored = client.artifacts.upload(content)
    assert (stored.kind, stored.size_bytes) == ("safetensors", len(content))
    assert client.artifacts.exists(stored.id)
    assert client.artifacts.get(stored.id) == stored
    assert client.artifacts.download(stored.id) == content
    client.artifacts.delete(stored.id)
    assert not client.artifacts.exists(stored.id)


def test_models_are_registered_read_and_deleted(client: Client) -> None:
    model = client.models.register(SPEC, name="small")
    assert client.models.get(model.id).parameters == 4 * 3 + 3 + 3 * 2 + 2
    client.models.delete(model.id)
    with pytest.raises(NotFound) as caught:
        client.models.get(model.id)
    assert (caught.value.code, caught.value.status) == ("not_found", 404)


def test_a_spec_is_validated_and_errors_name_the_layer(client: Client) -> None:
    assert client.models.validate(SPEC).output_shape == (2,)
    wrong = {**SPEC, "layers": [{"type": "Linear", "out_features": 0}]}
    with pytest.raises(InvalidRequest) as caught:
        client.models.validate(wrong)
    assert caught.value.code == "invalid_spec"
    assert any(error.pointer.endswith("/layers/0/out_features") for error in caught.value.errors)
    assert "out_features" in str(caught.value)


def test_a_service_that_does_not_answer_is_named() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    away = Client("http://nowhere.test:1", transport=httpx.MockTransport(refuse), attempts=1)
    with away, pytest.raises(ServiceUnreachable, match=r"http://nowhere\.test:1.*refused"):
        away.models.get("mdl_1")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>a proxy</html>"),
        httpx.Response(200, json={"items": 3}),
        httpx.Response(403, text="forbidden", headers={"Content-Type": "text/html"}),
        httpx.Response(418, content=b"{", headers={"Content-Type": "application/problem+json"}),
    ],
)
def test_an_answer_of_another_service_is_recognised(answer: httpx.Response) -> None:
    odd = Client("http://odd.test", transport=httpx.MockTransport(lambda _request: answer))
    with odd, pytest.raises(UnexpectedAnswer) as caught:
        odd.models.get("mdl_1")
    assert caught.value.status == answer.status_code


def test_fields_that_a_newer_service_adds_are_ignored() -> None:
    from gradinspect.contracts.request.request import InspectionSettings
    from gradinspect.testing.measurements import MODEL

    settings = InspectionSettings()
    document = judge(chain(), policy=client_policy(), model=MODEL, inspection="insp_1", settings=settings).model_dump(
        mode="json"
    )
    document["layers"][0]["invented"] = 1
    newer = Client(
        "http://new.test", transport=httpx.MockTransport(lambda _request: httpx.Response(200, json=document))
    )
    with newer:
        assert newer.inspections.report("insp_1").verdict == "pass"


def client_policy() -> Any:
    from gradinspect.rules import DEFAULT_POLICY

    return DEFAULT_POLICY


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://service.test", "", "http://"])
def test_a_text_that_is_not_an_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ProblemError, match="looks like http://"):
        Client(url)
