"""From a model and options to a report: on this machine, or on a service."""

from __future__ import annotations

import click
from pydantic import ValidationError

from gradinspect.cli.factories import inspect_factory, is_factory
from gradinspect.cli.failures import WRONG_CALL, Failure
from gradinspect.cli.files import DataFile, ModelFile, digest_of, read_data, read_model, read_policy, read_tensors
from gradinspect.cli.options import InspectionOptions, check_options, declared_input, input_names, settings_of
from gradinspect.cli.progress import shown_progress
from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import ModelReference
from gradinspect.contracts.request.policy import DEFAULT_POLICY, Policy
from gradinspect.contracts.sources import FileSource, TorchScriptSource
from gradinspect.contracts.spec.digest import spec_digest
from gradinspect.contracts.spec.tensors import SampleInput
from gradinspect.contracts.wire.messages import Job, Limits
from gradinspect.report.shown import Report


def obtain_report(
    model: str, options: InspectionOptions, *, policy: Policy | None = None, takes_labels: bool = False
) -> Report:
    """Inspect a model as the options say, and judge it.

    Args:
        model: a spec, an exported program, a TorchScript file, the name of a function, or with --server an mdl_… id.
        options: the values of the options.
        policy: judges instead of the one that the options name.
        takes_labels: whether a report that is measured here goes to a service.

    Raises:
        ProblemError, InspectionError: as `gradinspect.inspect`.
        GradinspectError: the service refuses or fails.
    """
    if options.server is not None:
        from gradinspect.cli.remote import inspect_remotely

        return inspect_remotely(model, options, policy=policy)
    if options.label and not takes_labels:
        raise click.UsageError("--label goes with --server and --push")
    return _inspect_locally(model, options, policy)


def push_report(
    report: Report, url: str, *, key: str | None, name: str | None, labels: dict[str, str], policy: str
) -> str:
    """Store a report on a service; return the address of its page.

    Raises:
        Failure: the address is none, or a label is wrong.
        GradinspectError: the service refuses or fails.
    """
    try:
        return report.push(url, key=key, name=name, labels=labels, policy=policy)
    except ProblemError as error:
        raise Failure(f"--push: {error.detail}", exit_code=WRONG_CALL) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Failure(f"--{first['loc'][0]}: {first['msg']}", exit_code=WRONG_CALL) from None


def _inspect_locally(path: str, options: InspectionOptions, policy: Policy | None) -> Report:
    if is_factory(path):
        if options.weights is not None:
            raise click.UsageError("--weights goes with a spec; load the weights in the function")
        click.echo(f"gradinspect: {path} is imported and called here, with your rights", err=True)
        with shown_progress(f"inspecting {path}") as progress:
            progress("loading torch", 0.0)
            return inspect_factory(path, options, policy, progress)
    model = read_model(path)
    data = read_data(options.data, input_names(options), options.target) if options.data is not None else None
    check_options(model, options)
    if isinstance(model.source, TorchScriptSource):
        warning = f"{model.name} is a program and runs here with your rights; use --server for files you do not trust"
        click.echo(f"gradinspect: {warning}", err=True)
    if policy is None:
        policy = DEFAULT_POLICY if options.policy == DEFAULT_POLICY.name else read_policy(options.policy)
    weights = read_tensors(options.weights)[0] if options.weights is not None else None
    job = _job(model, weights, data, options)
    with shown_progress(f"inspecting {model.name}") as progress:
        progress("loading torch", 0.0)
        from gradinspect.inspection.local import inspect_job, local_limits

        return inspect_job(
            job.model_copy(update={"limits": local_limits(wall_seconds=options.time_limit)}),
            model_bytes=model.content,
            weights_bytes=weights,
            data_bytes=data.content if data is not None else None,
            model=ModelReference(name=model.name[:256], kind=model.source.kind, digest=_digest(model)),
            policy=policy,
            progress=progress,
        )


def _digest(model: ModelFile) -> str:
    """Return the digest by which a service knows the model."""
    return model.source.file if isinstance(model.source, FileSource) else spec_digest(model.source.spec)


def _job(model: ModelFile, weights: bytes | None, data: DataFile | None, options: InspectionOptions) -> Job:
    """Build the job before torch is loaded, so that a mistake is reported at once."""
    batch = None
    if data is not None:
        batch = {"artifact": data.digest, "inputs": list(data.inputs), "target": data.target}
    more: dict[str, object] = {}
    if weights is not None:
        more["weights"] = digest_of(weights)
    elif isinstance(model.source, TorchScriptSource) and (declared := declared_input(options)) is not None:
        more["input"] = from_python(SampleInput, declared)
    return Job(
        source=model.source.model_copy(update=more),
        settings=settings_of(options, batch),
        limits=Limits(),
    )
