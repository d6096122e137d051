"""From a model and options to a report: on this machine, or on a service."""

from __future__ import annotations

import click

from gradinspect.cli.asking import Asked, declared_input, input_names, settings_of
from gradinspect.cli.files import DataFile, ModelFile, read_data, read_model, read_policy, read_tensors
from gradinspect.cli.progress import shown_progress
from gradinspect.contracts.document import from_python
from gradinspect.contracts.report.report import ModelReference
from gradinspect.contracts.request.policy import DEFAULT_POLICY, Policy
from gradinspect.contracts.spec.tensors import SampleInput
from gradinspect.contracts.wire.messages import Job, Limits
from gradinspect.report.shown import Report


def obtain_report(model: str, asked: Asked, *, policy: Policy | None = None) -> Report:
    """Inspect MODEL as the options say and judge it.

    Args:
        model: a spec, a TorchScript file, or with --server an mdl_ id.
        asked: the options.
        policy: judges instead of the one that the options name.

    Raises:
        ProblemError, InspectionError: as `gradinspect.inspect`; GradinspectError for a service.
    """
    if asked.server is not None:
        from gradinspect.cli.remote import inspect_remotely

        return inspect_remotely(model, asked, policy=policy)
    if asked.label:
        raise click.UsageError("--label goes with --server")
    given = read_model(model)
    data = read_data(asked.data, input_names(asked), asked.target) if asked.data is not None else None
    check_options(given, asked)
    if given.torchscript is not None:
        click.echo(
            f"{given.name} is a program, and it runs here with your rights, unconfined; "
            "use --server for files of others.",
            err=True,
        )
    rules = policy or (DEFAULT_POLICY if asked.policy == DEFAULT_POLICY.name else read_policy(asked.policy))
    job = _job(given, data, asked)
    weights = read_tensors(asked.weights)[0] if asked.weights is not None else None
    with shown_progress(f"inspecting {given.name}") as progress:
        progress("loading torch", 0.0)
        from gradinspect.inspection.local import inspect_job, local_limits

        return inspect_job(
            job.model_copy(update={"limits": local_limits(wall_seconds=asked.time_limit)}),
            model_bytes=given.torchscript,
            weights_bytes=weights,
            data_bytes=data.content if data is not None else None,
            model=ModelReference(name=given.name[:256], kind="spec" if given.spec is not None else "torchscript"),
            policy=rules,
            progress=progress,
        )


def check_options(given: ModelFile, asked: Asked) -> None:
    """Refuse options that say nothing about this kind of model."""
    if given.spec is not None:
        if asked.input_shape is not None:
            raise click.UsageError("--input-shape is for TorchScript files; a spec has an input of its own")
        return
    if asked.weights is not None:
        raise click.UsageError("--weights goes with a spec; a TorchScript file carries its own")
    if asked.data is None and asked.input_shape is None:
        raise click.UsageError(
            f"{given.name} says nothing about its input: give --data batch.safetensors, or --input-shape SIZES "
            "without the batch axis"
        )


def _job(given: ModelFile, data: DataFile | None, asked: Asked) -> Job:
    """The job; made before torch is loaded, so that a mistake is known at once."""
    read = None
    if data is not None:
        read = {"artifact": data.digest, "inputs": list(data.inputs), "target": data.target}
    declared = declared_input(asked) if given.spec is None else None
    return Job(
        spec=given.spec,
        has_weights=asked.weights is not None,
        has_data=data is not None,
        sample_input=from_python(SampleInput, declared) if declared is not None else None,
        settings=settings_of(asked, read),
        limits=Limits(),
    )
