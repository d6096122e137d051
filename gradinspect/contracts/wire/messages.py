"""Messages between processes: the broker's wake-up, the job of a child, and the frames it sends back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradinspect.contracts.document import Count, Document, Finite, Fraction, Name, Text
from gradinspect.contracts.report.report import Measurements
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.sources import ModelSource

INSPECT_TASK = "gradinspect.inspect"


class InspectMessage(Document):
    """A broker message: an id. It only wakes a worker; the database row is authoritative."""

    v: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^insp_[0-9a-f-]{36}$")]


class Limits(Document):
    """The resources of one job. The supervisor enforces wall time, the child limits the rest itself."""

    wall_seconds: Annotated[Finite, Field(gt=0)] = 300.0
    cpu_seconds: Annotated[int, Field(gt=0)] = 600
    memory_bytes: Annotated[int, Field(gt=0)] = 4 * 2**30
    result_bytes: Annotated[int, Field(gt=0)] = 64 * 2**20
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class Job(Document):
    """Everything a child needs except the bytes, which are inherited descriptors. Contains no secret."""

    v: Literal[1] = 1
    source: ModelSource
    settings: InspectionSettings
    limits: Limits


class ProgressFrame(Document):
    """The stage of the computation."""

    type: Literal["progress"] = "progress"
    stage: Name
    fraction: Fraction


class ResultFrame(Document):
    """The measurements: the last frame of a job that succeeded."""

    type: Literal["result"] = "result"
    measurements: Measurements


class FailureFrame(Document):
    """The reason for a failure: the last frame of a job that failed."""

    type: Literal["failure"] = "failure"
    code: Name
    detail: Text


Frame = Annotated[ProgressFrame | ResultFrame | FailureFrame, Field(discriminator="type")]


class JobTimings(Document):
    """Seconds that the child cannot measure, as the supervisor saw them."""

    fork_seconds: Finite
    run_seconds: Finite
    cpu_seconds: Finite | None = None
    frames: Count
