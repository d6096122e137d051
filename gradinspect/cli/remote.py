"""Inspection on a service: upload what is missing there, wait, and judge by a policy file here."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from gradinspect.cli.connection import connect
from gradinspect.cli.factories import is_factory
from gradinspect.cli.failures import WRONG_CALL, Failure
from gradinspect.cli.files import EXPORT_IT, ModelFile, read_data, read_model, read_policy, read_tensors
from gradinspect.cli.options import (
    InspectionOptions,
    check_options,
    declared_input,
    input_names,
    labels_of,
    settings_document,
    wrong_options,
)
from gradinspect.cli.progress import shown_progress
from gradinspect.client import Client, GradinspectError
from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import MODEL_ID, InspectionRequest
from gradinspect.contracts.sources import SpecSource
from gradinspect.report.shown import Report
from gradinspect.rules import rejudge

_ANY_MODEL = "mdl_00000000-0000-0000-0000-000000000000"


def inspect_remotely(path: str, options: InspectionOptions, *, policy: Policy | None = None) -> Report:
    """Inspect a model on the service of --server.

    Args:
        path: a spec, an exported program, a TorchScript file, or an mdl_… id.
        options: the values of the options.
        policy: judges the report here, instead of the policy that the options name.

    Raises:
        GradinspectError, ProblemError: as the client.
    """
    assert options.server is not None
    if is_factory(path):
        message = f"{path} is code of yours, which runs on your machine alone: leave out --server, or {EXPORT_IT}"
        raise Failure(message, exit_code=WRONG_CALL)
    model = None if MODEL_ID.fullmatch(path) else read_model(path)
    if model is not None:
        check_options(model, options)
    if policy is None and options.policy.endswith(".json") and Path(options.policy).exists():
        policy = read_policy(options.policy)  # judged here: rules need nothing but the report
    about = {"policy": "default" if policy is not None else options.policy, "labels": labels_of(options.label)}
    _checked({"model": _ANY_MODEL, **about, **settings_document(options, None)})
    with connect(options.server) as client:
        with shown_progress(f"inspecting {model.name if model is not None else path}") as progress:
            progress("uploading", 0.0)
            model_id = path if model is None else _registered(client, model, options)
            request = _checked({"model": model_id, **about, **settings_document(options, _data(client, options))})
            submitted = client.inspections.submit(request)
            try:
                client.inspections.wait(submitted.id, seconds=options.time_limit, progress=progress)
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
    return Report.of(rejudge(report, policy, settings=settings), settings=settings)


def _checked(document: dict[str, Any]) -> InspectionRequest:  # Any: JSON, here and below
    """Validate the request, so that wrong options are reported before anything is uploaded."""
    try:
        return from_python(InspectionRequest, document)
    except ProblemError as error:
        raise wrong_options(error.errors) from None


def _registered(client: Client, model: ModelFile, options: InspectionOptions) -> str:
    name = model.name[:256]
    if isinstance(model.source, SpecSource):
        weights = client.artifacts.upload(read_tensors(options.weights)[0]).id if options.weights is not None else None
        return client.models.register(model.source.spec, name=name, weights=weights).id
    artifact = client.artifacts.upload(model.content or b"").id
    return client.models.register_file(model.source.kind, artifact, name=name, input=declared_input(options)).id


def _data(client: Client, options: InspectionOptions) -> dict[str, Any] | None:
    if options.data is None:
        return None
    data = read_data(options.data, input_names(options), options.target)
    document = {"artifact": client.artifacts.upload(data.content).id, "inputs": list(data.inputs)}
    return document | ({"target": data.target} if data.target is not None else {})
