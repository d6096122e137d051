"""The input of a child, its confinement, and the corrections of its output."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gradinspect.contracts.document import from_json
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import MeasuredSummary, Measurements, ModelReference
from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.wire.messages import Job, JobTimings, Limits
from service.db.leases import Claim, Lease
from tests.support.specimens import make_report, spec
from workers.supervisor.endings import Measured
from workers.supervisor.fork_client import ServerFacts
from workers.supervisor.preparation import choose_level, job_json, with_trusted_environment

CAN = ServerFacts("2.13.0", "full", "")
CANNOT = ServerFacts("2.13.0", "limits", "seccomp: Function not implemented")
DIGEST = f"sha256:{'0' * 64}"
CLAIM = Claim(
    lease=Lease("insp_secret", "token-secret"), tenant="tenant-secret", attempt=1, settings=InspectionSettings(),
    policy=DEFAULT_POLICY, model=ModelReference(kind="spec"), queue="cpu",
    source={"kind": "spec", "spec": spec().model_dump(mode="json", exclude_none=True)}, files={},
)  # fmt: skip
ON_GPU = replace(CLAIM, queue="gpu")
UPLOAD = replace(CLAIM, source={"kind": "torchscript", "torchscript": DIGEST}, files={"model": DIGEST})


def test_a_job_contains_no_secret() -> None:
    assert "secret" not in job_json(CLAIM, Limits()).decode()


def test_the_queue_determines_the_device() -> None:
    assert from_json(Job, job_json(CLAIM, Limits())).settings.device == "cpu"
    assert from_json(Job, job_json(ON_GPU, Limits())).settings.device == "cuda"


def test_uploads_on_the_cpu_are_fully_confined() -> None:
    assert choose_level(CLAIM, CAN, has_uploads=False, gpu_uploads=False) == "limits"
    assert choose_level(CLAIM, CAN, has_uploads=True, gpu_uploads=False) == "full"
    assert choose_level(UPLOAD, CAN, has_uploads=True, gpu_uploads=True) == "full"


def test_without_full_confinement_specs_run_and_uploads_are_refused() -> None:
    assert choose_level(CLAIM, CANNOT, has_uploads=False, gpu_uploads=False) == "limits"
    with pytest.raises(ProblemError, match="Function not implemented") as refused:
        choose_level(UPLOAD, CANNOT, has_uploads=True, gpu_uploads=True)
    assert refused.value.code == "uploads_disabled"


def test_an_uploaded_model_runs_on_a_gpu_unconfined_only_if_the_operator_opted_in() -> None:
    on_gpu = replace(UPLOAD, queue="gpu")
    assert choose_level(on_gpu, CAN, has_uploads=True, gpu_uploads=True) == "limits"
    assert choose_level(on_gpu, CAN, has_uploads=True, gpu_uploads=False) == "full"


def test_a_childs_claims_about_its_environment_are_overwritten() -> None:
    environment = make_report().environment.model_copy(
        update={"confinement": "full", "torch_version": "9", "stages": {f"s{index}": 1.0 for index in range(32)}}
    )
    said = Measurements(environment=environment, summary=MeasuredSummary(loss=1.0, parameters=1, layers=0))
    measured = Measured(said, JobTimings(fork_seconds=0.01, run_seconds=0.5, frames=3))
    believed = with_trusted_environment(measured, CAN, "limits").environment
    assert (believed.confinement, believed.torch_version) == ("limits", "2.13.0")
    assert (believed.stages["fork"], believed.stages["child"]) == (0.01, 0.5)
    assert len(believed.stages) <= 32
