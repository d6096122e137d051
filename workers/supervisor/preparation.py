"""The input of a child for a claimed inspection, and corrections of its output, which is not trusted."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import BinaryIO

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.prescription_code import with_code
from gradinspect.contracts.report.report import Environment, Measurements
from gradinspect.contracts.report.scale_code import with_scale_code
from gradinspect.contracts.report.trial import SWITCHED_OFF, Trial
from gradinspect.contracts.sections import SECTIONS
from gradinspect.contracts.wire.messages import Limits
from gradinspect.version import __version__
from service.db.leases import Claim
from service.store.storage import Store
from workers.child.sandbox import Level
from workers.supervisor.endings import Measured
from workers.supervisor.fork_client import ServerFacts

MOST_STAGES = 24  # from a child; a report has at most 32


def job_json(claim: Claim, limits: Limits) -> bytes:
    """Write the `Job` of a claim: no id, no tenant, no secret.

    The source is passed on as it was stored: the child validates it.
    """
    device = "cuda" if claim.queue == "gpu" else "cpu"
    settings = claim.settings.model_copy(update={"device": device}).model_dump(mode="json")
    return json.dumps({"source": claim.source, "settings": settings, "limits": limits.model_dump(mode="json")}).encode()


def open_files(claim: Claim, store: Store, opened: ExitStack) -> dict[str, BinaryIO]:
    """Open the uploaded files of a job by the runner's names; `opened` closes them.

    Raises:
        ProblemError: `not_found` if the store has lost one.
    """
    return {
        name: opened.enter_context(store.artifacts.open(digest, tenant=claim.tenant))
        for name, digest in claim.files.items()
    }


def choose_level(claim: Claim, facts: ServerFacts, *, has_uploads: bool, gpu_uploads: bool) -> Level:
    """Choose the confinement: torch reads uploaded bytes under full confinement or not at all.

    A spec on synthetic data is our own code. The CUDA driver is out of reach under full confinement, so on a GPU a
    spec's weights and data run without it, and an uploaded model only if the operator has opted in.

    Raises:
        ProblemError: `uploads_disabled`.
    """
    if not has_uploads:
        return "limits"
    if claim.queue == "gpu" and (gpu_uploads or not claim.is_upload):
        return "limits"
    if facts.level != "full":
        raise ProblemError("uploads_disabled", f"this worker cannot confine uploaded bytes: {facts.reason}")
    return "full"


def trusted(measured: Measured, claim: Claim, facts: ServerFacts, *, level: Level, limits: Limits) -> Measurements:
    """Return a child's measurements with everything replaced that this process knows or can make itself.

    The numbers and names are the child's, validated. Source code is made anew from them, sections that the request did
    not ask for are dropped, and the environment is the one that this process set up and observed.
    """
    believed, settings = measured.measurements, claim.settings
    changed: dict[str, object] = {
        record.name: None for record in SECTIONS if record.computation is not None and not settings.asks_for(record)
    }
    if settings.lr_scales is not False and believed.lr_scales is not None:
        changed["lr_scales"] = with_scale_code(believed.lr_scales, settings.optimizer)
    if settings.trial == "off":
        # As in a local inspection: with the reason, what rules infer is at most a warning.
        changed["trial"] = Trial(status="undetermined", reason=SWITCHED_OFF)
        changed["prescription"] = None
    elif believed.prescription is not None:
        changed["prescription"] = with_code(believed.prescription)
    if settings.seeds == 1:
        changed["spread"] = None
    changed["environment"] = _environment(measured, claim, facts, level=level, limits=limits)
    return believed.model_copy(update=changed)


def _environment(measured: Measured, claim: Claim, facts: ServerFacts, *, level: Level, limits: Limits) -> Environment:
    """Return the environment as this process set it up, with the times that it saw."""
    said, timings = measured.measurements.environment, measured.timings
    stages = dict(list(said.stages.items())[:MOST_STAGES])
    stages |= {"fork": round(timings.fork_seconds, 6), "child": round(timings.run_seconds, 6)}
    spent = said.wall_seconds
    return said.model_copy(
        update={
            "gradinspect_version": __version__,
            "torch_version": facts.torch_version,
            "confinement": level,
            "device": said.device if claim.queue == "gpu" and said.device.startswith("cuda") else "cpu",
            "threads": limits.threads,
            "seed": claim.settings.seed,
            "wall_seconds": timings.run_seconds if spent is None else min(max(spent, 0.0), timings.run_seconds),
            "cpu_seconds": timings.cpu_seconds,
            "stages": stages,
        }
    )
