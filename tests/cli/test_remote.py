"""Commands on a service: the real application behind a transport that makes no connections."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import click
import httpx
import pytest
import structlog
from click.testing import CliRunner, Result

from gradinspect.cli import cli
from gradinspect.client import Client
from gradinspect.contracts.document import from_json
from gradinspect.contracts.report.report import Report
from gradinspect.testing.measurements import chain
from service.app import create_app
from service.context import EXTENSION, Context
from service.settings import Settings
from tests.support.pretend_worker import Watched, Worker

URL = "http://localhost"
SPEC: dict[str, Any] = {"input": {"shape": [4]}, "layers": [{"type": "Linear", "out_features": 2}]}
Run = Callable[..., Result]


@pytest.fixture
def watched(data_dir: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Make the application, and let every client reach it."""
    app = create_app(Settings.from_environment({}, data_dir=data_dir, database_url=sqlite_url))
    context: Context = app.extensions[EXTENSION]
    transport = Watched(httpx.WSGITransport(app=app), Worker(context))
    monkeypatch.setattr(httpx, "HTTPTransport", lambda: transport)
    with structlog.testing.capture_logs():  # the application logs to stdout, which is the command's here
        yield transport
    context.database.dispose()
    context.dispatcher.close()


@pytest.fixture
def run(watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `inspect spec.json --server` with more arguments."""
    monkeypatch.chdir(tmp_path)
    Path("spec.json").write_text(json.dumps(SPEC), encoding="utf-8")

    def invoke(*arguments: str, model: str = "spec.json") -> Result:
        call = ["inspect", model, "--server", URL, *arguments]
        return CliRunner().invoke(cli, call, catch_exceptions=False)

    return invoke


def reported(result: Result) -> Report:
    assert result.exit_code == 0, result.stderr
    return from_json(Report, result.stdout)


def test_the_report_is_shown_and_the_address_of_its_page_printed(run: Run) -> None:
    result = run()
    assert result.exit_code == 0
    assert "! WARN  spec.json" in result.stdout
    assert result.stderr.startswith(f"{URL}/inspections/insp_")


def test_a_registered_model_is_inspected_by_its_id(run: Run, watched: Watched) -> None:
    first = reported(run("--json"))
    assert first.model.id is not None
    assert reported(run("--json", model=first.model.id)).model.id == first.model.id
    assert watched.called("POST").count("/v1/models") == 1


def test_options_reach_the_service(run: Run, watched: Watched) -> None:
    reported(run("--json", "--optimizer", "adam", "--seeds", "2", "--samples", "16", "--label", "team=vision"))
    sent = json.loads(
        next(r.read() for r in watched.requests if r.url.path == "/v1/inspections" and r.method == "POST")
    )
    assert sent["optimizer"] == {"type": "adam"}
    assert (sent["seeds"], sent["data"], sent["labels"]) == (2, {"samples": 16}, {"team": "vision"})


def test_a_policy_file_judges_here_and_a_stored_one_there(run: Run, watched: Watched) -> None:
    lenient = {"name": "lenient", "rules": {"vanishing_signal": {"enabled": False}}}
    Path("policy.json").write_text(json.dumps(lenient), encoding="utf-8")
    here = reported(run("--json", "--policy", "policy.json"))
    with Client(URL, transport=watched) as client:
        client.policies.create({**lenient, "name": "stored"})
    there = reported(run("--json", "--policy", "stored"))
    assert here.policy is not None
    assert there.policy is not None
    assert (here.policy.name, there.policy.name) == ("lenient", "stored")
    for report in (here, there):
        assert "vanishing_signal" not in {finding.rule for finding in report.findings}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--optimizer", "sgd,lr=0"], "--optimizer lr"),
        (["--label", "team"], "is not KEY=VALUE"),
        (["--policy", "unknown"], "unknown"),
    ],
)
def test_a_wrong_call_exits_with_2(run: Run, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""


def test_wrong_options_are_reported_before_anything_is_uploaded(run: Run, watched: Watched) -> None:
    assert run("--optimizer", "sgd,lr=0").exit_code == 2
    with ZipFile("model.pt", "w") as archive:
        archive.writestr("model/data.pkl", "")
        archive.writestr("model/constants.pkl", "")
        archive.writestr("model/code/__torch__.py", "")
    result = run(model="model.pt")
    assert (result.exit_code, "--data batch.safetensors, or --input-shape" in result.stderr) == (2, True)
    assert watched.requests == []


def test_an_unknown_model_exits_with_2(run: Run) -> None:
    result = run(model="mdl_00000000-0000-0000-0000-000000000000")
    assert result.exit_code == 2
    assert "/model: there is no model mdl_00000000" in result.stderr


def test_a_failed_inspection_exits_with_3_and_prints_what_to_do(run: Run, watched: Watched) -> None:
    watched.worker.failure = ("no_gradient", "all parameters are frozen")
    result = run()
    assert result.exit_code == 3
    assert "no_gradient: all parameters are frozen" in result.stderr
    assert "check requires_grad" in result.stderr


def test_an_inspection_that_takes_too_long_exits_with_3(run: Run, watched: Watched) -> None:
    watched.worker.is_away = True
    result = run("--time-limit", "1")
    assert result.exit_code == 3
    assert "has not ended within 1 s; it continues" in result.stderr


def test_an_interrupt_cancels_the_inspection_and_exits_with_130(
    run: Run, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Watched):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "GET" and request.url.path.startswith("/v1/inspections/"):
                raise KeyboardInterrupt
            return super().handle_request(request)

    interrupted = Interrupted(watched.inner, watched.worker)
    monkeypatch.setattr(httpx, "HTTPTransport", lambda: interrupted)
    result = run()
    assert result.exit_code == 130
    assert "cancelled insp_" in result.stderr
    with Client(URL, transport=watched) as client:
        assert [found.status for found in client.inspections.list()] == ["cancelled"]


def test_a_service_that_does_not_answer_exits_with_3(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    from gradinspect.client import transport

    monkeypatch.setattr(httpx, "HTTPTransport", lambda: httpx.MockTransport(refuse))
    monkeypatch.setattr(transport, "FIRST_PAUSE_SECONDS", 0.0)
    result = run()
    assert result.exit_code == 3
    assert f"the service at {URL}" in result.stderr


def test_inspections_are_compared_by_their_ids(run: Run, watched: Watched) -> None:
    base = reported(run("--json")).inspection
    watched.worker.measured = chain((0.9,) * 5)
    head = reported(run("--json")).inspection
    assert base is not None
    assert head is not None
    result = CliRunner().invoke(cli, ["compare", base, head, "--server", URL], catch_exceptions=False)
    assert result.exit_code == 0
    assert "✔ better" in result.stdout


def test_inspections_are_listed_with_filters(run: Run) -> None:
    first, second = reported(run("--json")).inspection, reported(run("--json", "--label", "team=vision")).inspection
    assert first is not None
    assert second is not None
    listed = CliRunner().invoke(cli, ["list", "--server", URL], catch_exceptions=False).stdout.splitlines()
    assert listed[0].split() == ["inspection", "created", "(UTC)", "status", "verdict", "model"]
    assert [line.split()[0] for line in listed[1:]] == [second, first]
    one = CliRunner().invoke(cli, ["list", "--server", URL, "--label", "team=vision", "--json"], catch_exceptions=False)
    assert [json.loads(line)["id"] for line in one.stdout.splitlines()] == [second]
    newest = CliRunner().invoke(cli, ["list", "--server", URL, "--limit", "1", "--json"], catch_exceptions=False)
    assert [json.loads(line)["id"] for line in newest.stdout.splitlines()] == [second]


def test_the_report_of_an_earlier_inspection_is_shown(run: Run) -> None:
    report = reported(run("--json"))
    assert report.inspection is not None
    shown = CliRunner().invoke(cli, ["show", report.inspection, "--server", URL], catch_exceptions=False)
    assert "! WARN  spec.json" in shown.stdout
    whole = CliRunner().invoke(cli, ["show", report.inspection, "--server", URL, "--json"], catch_exceptions=False)
    assert reported(whole) == report


def test_the_page_of_an_inspection_is_opened_in_a_browser(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    inspection = reported(run("--json")).inspection
    assert inspection is not None
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", opened.append)
    result = CliRunner().invoke(cli, ["open", inspection, "--server", URL], catch_exceptions=False)
    assert opened == [f"{URL}/inspections/{inspection}"]
    assert result.stdout == f"{opened[0]}\n"


def test_an_inspection_is_deleted_once_it_has_ended(run: Run, watched: Watched) -> None:
    inspection = reported(run("--json")).inspection
    assert inspection is not None
    delete = ["delete", inspection, "--server", URL]
    assert CliRunner().invoke(cli, delete, catch_exceptions=False).stdout == f"deleted {inspection}\n"
    again = CliRunner().invoke(cli, delete, catch_exceptions=False)
    assert (again.exit_code, "not_found" in again.stderr) == (2, True)
    watched.worker.is_away = True
    assert run("--time-limit", "1").exit_code == 3
    (queued,) = CliRunner().invoke(cli, ["list", "--server", URL, "--json"], catch_exceptions=False).stdout.splitlines()
    refused = CliRunner().invoke(cli, ["delete", json.loads(queued)["id"], "--server", URL], catch_exceptions=False)
    assert (refused.exit_code, "not_finished" in refused.stderr) == (2, True)


def test_inspections_are_listed_by_the_name_of_their_model(run: Run) -> None:
    reported(run("--json"))
    for name, count in (("spec.json", 1), ("other", 0)):
        listed = CliRunner().invoke(cli, ["list", "--server", URL, "--name", name, "--json"], catch_exceptions=False)
        assert len(listed.stdout.splitlines()) == count


def test_an_inspection_that_does_not_exist_exits_with_2(watched: Watched) -> None:
    watched.worker.is_away = True
    for command in ("show", "open", "delete"):
        unknown = "insp_00000000-0000-0000-0000-000000000000"
        result = CliRunner().invoke(cli, [command, unknown, "--server", URL], catch_exceptions=False)
        assert (result.exit_code, "not_found" in result.stderr) == (2, True)


def test_a_spec_is_validated_by_the_service(run: Run, watched: Watched) -> None:
    result = CliRunner().invoke(cli, ["validate", "spec.json", "--server", URL], catch_exceptions=False)
    assert "10 parameters" in result.stdout
    assert watched.called("POST") == ["/v1/models:validate"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 1),
        (("--fail-on", "fail"), 0),
        (("--policy", "lenient"), 0),
        (("--policy", "lenient.json"), 0),
        (("--policy", "unknown"), 2),
    ],
)
def test_the_exit_code_of_an_audit_on_a_service_follows_from_its_policy(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    lenient = {"name": "lenient", "rules": {"vanishing_signal": {"warn": None}}}
    Path("spec.json").write_text(json.dumps(SPEC), encoding="utf-8")
    Path("lenient.json").write_text(json.dumps(lenient), encoding="utf-8")
    with Client(URL) as client:
        client.policies.create(lenient)
    watched.worker.measured = chain((0.2,) * 5)
    result = CliRunner().invoke(
        cli, ["audit", "spec.json", "--server", URL, "--junit", "out.xml", *arguments], catch_exceptions=False
    )
    assert result.exit_code == code, result.output
    assert Path("out.xml").exists() == (code < 2)
