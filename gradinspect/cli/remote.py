"""Inspecting on a service: bring there what is not there yet, wait, and judge by a policy file here."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from gradinspect.cli.asking import Asked, declared_input, input_names, labels_of, settings_document, wrong_options
from gradinspect.cli.files import ModelFile, read_data, read_model, read_policy, read_tensors
from gradinspect.cli.progress import shown_progress
from gradinspect.cli.running import check_options
from gradinspect.client import Client, GradinspectError
from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionRequest
from gradinspect.report.shown import Report
from gradinspect.rules import rejudge

_MODEL_ID = re.compile(r"mdl_[0-9a-f-]{36}")
_ANY_MODEL = "mdl_00000000-0000-0000-0000-000000000000"


def inspect_remotely(model: str, asked: Asked, *, policy: Policy | None = None) -> Report:
    """Inspect MODEL on the service of the options.

    Args:
        model: a spec, a TorchScript file, or an mdl_ id.
        asked: the options.
        policy: judges the report here, instead of the policy that the options name.

    Raises:
        GradinspectError, ProblemError: as the client's.
    """
    assert asked.server is not None
    given = None if _MODEL_ID.fullmatch(model) else read_model(model)
    if given is not None:
        check_options(given, asked)
    if policy is None and asked.policy.endswith(".json") and Path(asked.policy).exists():
        policy = read_policy(asked.policy)  # a file is applied here: rules need nothing but the report
    stored_policy = "default" if policy is not None else asked.policy
    about = {"policy": stored_policy, "labels": labels_of(asked)}
    _checked({"model": _ANY_MODEL, **about, **settings_document(asked, None)})
    with Client(asked.server) as client:
        with shown_progress(f"inspecting {given.name if given is not None else model}") as progress:
            progress("uploading", 0.0)
            chosen = model if given is None else _registered(client, given, asked)
            request = _checked({"model": chosen, **about, **settings_document(asked, _data(client, asked))})
            submitted = client.inspections.submit(request)
            try:
                client.inspections.wait(submitted.id, seconds=asked.time_limit, progress=progress)
            except KeyboardInterrupt:
                with suppress(GradinspectError):
                    client.inspections.cancel(submitted.id)
                    click.echo(f"gradinspect: cancelled {submitted.id}", err=True)
                raise
        report = client.inspections.report(submitted.id)
        click.echo(f"{client.base_url}{submitted.links.page}", err=True)
    settings = request.settings()
    if policy is None:
        return Report.of(report, settings=settings)
    return Report.of(rejudge(report, policy, settings=settings), policy=policy, settings=settings)


def _checked(document: dict[str, Any]) -> InspectionRequest:
    """The request; wrong options are known before anything is uploaded."""
    try:
        return from_python(InspectionRequest, document)
    except ProblemError as error:
        raise wrong_options(error.errors) from None


def _registered(client: Client, given: ModelFile, asked: Asked) -> str:
    if given.spec is not None:
        weights = client.artifacts.upload(read_tensors(asked.weights)[0]).id if asked.weights is not None else None
        return client.models.register(given.spec, name=given.name[:256], weights=weights).id
    assert given.torchscript is not None
    stored = client.artifacts.upload(given.torchscript).id
    return client.models.register(torchscript=stored, name=given.name[:256], input=declared_input(asked)).id


def _data(client: Client, asked: Asked) -> dict[str, Any] | None:
    if asked.data is None:
        return None
    data = read_data(asked.data, input_names(asked), asked.target)
    stored = client.artifacts.upload(data.content).id
    return {"artifact": stored, "inputs": list(data.inputs)} | (
        {"target": data.target} if data.target is not None else {}
    )
