"""The input of a child, its confinement, and the corrections of its output."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

import pytest

from gradinspect.contracts.document import from_json, from_python
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import MeasuredSummary, Measurements, ModelReference
from gradinspect.contracts.report.sections import (
    Jacobian,
    LrScales,
    Noise,
    ScaleGroup,
    ScaleRemedy,
    SeedSpread,
    WeightGain,
)
from gradinspect.contracts.report.trial import SWITCHED_OFF, Change, Trial
from gradinspect.contracts.request.policy import DEFAULT_POLICY
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.wire.messages import Job, JobTimings, Limits
from gradinspect.report.words.headline import headline
from gradinspect.rules import judge
from gradinspect.testing.measurements import MODEL, chain
from service.db.leases import Claim, Lease
from tests.support.sample_reports import PRESCRIPTION
from tests.support.specimens import make_report, spec
from workers.supervisor.endings import Measured
from workers.supervisor.fork_client import ServerFacts
from workers.supervisor.preparation import choose_level, job_json, trusted

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


def believed(settings: InspectionSettings, **said: Any) -> Measurements:
    """Return what a worker believes of measurements that a child sent for these settings."""
    environment = make_report().environment.model_copy(update=said.pop("environment", {}))
    summary = MeasuredSummary(loss=1.0, parameters=1, layers=0)
    sent = Measurements(environment=environment, summary=summary, **said)
    measured = Measured(sent, JobTimings(fork_seconds=0.01, run_seconds=0.5, cpu_seconds=0.4, frames=3))
    return trusted(measured, replace(CLAIM, settings=settings), CAN, level="limits", limits=Limits(threads=2))


FORGED = "import os\nos.system('touch /tmp/forged')"
SCALES = LrScales(
    verdict="use", base_lr=0.1, code=FORGED,
    groups=(ScaleGroup(layer="0", parameters=("0.weight", '"]); evil(["'), scale=2.0),),
    remedies=tuple(
        ScaleRemedy(name=name, learned=True, base_lr=0.1, code=FORGED, gains=(WeightGain(parameter="'", gain=2.0),))
        for name in ("rescale_gains", "layer_normalised_updates", "adam", "never heard of")
    ),
)  # fmt: skip


def test_a_childs_claims_about_its_environment_are_overwritten() -> None:
    forged = {
        "confinement": "full", "torch_version": "9", "device": "cuda (mine)", "threads": 99, "seed": 5,
        "wall_seconds": 0.0, "cpu_seconds": 1e9, "stages": {f"s{index}": 1.0 for index in range(32)},
    }  # fmt: skip
    environment = believed(InspectionSettings(seed=7), environment=forged).environment
    assert (environment.confinement, environment.torch_version) == ("limits", "2.13.0")
    assert (environment.device, environment.threads, environment.seed) == ("cpu", 2, 7)
    assert (environment.wall_seconds, environment.cpu_seconds) == (0.0, 0.4)
    assert (environment.stages["fork"], environment.stages["child"]) == (0.01, 0.5)
    assert len(environment.stages) <= 32
    assert believed(InspectionSettings(), environment={"wall_seconds": 1e9}).environment.wall_seconds == 0.5


def test_no_text_of_a_child_is_served_as_code() -> None:
    settings = from_python(InspectionSettings, {"lr_scales": {}})
    scales = believed(settings, lr_scales=SCALES).lr_scales
    assert scales is not None
    assert scales.code is not None
    codes = [scales.code, *(remedy.code for remedy in scales.remedies[:3])]
    for code in codes:
        assert code is not None
        assert "os.system" not in code
        names = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
        assert "evil" not in names  # a parameter's name stays a string
    assert scales.remedies[3].code is None
    assert repr('"]); evil(["') in scales.code


def test_sections_that_nobody_asked_for_are_dropped() -> None:
    sent = {
        "lr_scales": SCALES,
        "noise": Noise(grad_snr=1.0),
        "jacobian": Jacobian(largest=2.0),
        "spread": SeedSpread(seeds=1),
    }
    kept = believed(from_python(InspectionSettings, {"diagnostics": ["noise"]}), **sent)
    assert kept.noise == sent["noise"]
    assert (kept.lr_scales, kept.jacobian, kept.spread) == (None, None, None)


def test_the_code_of_a_prescription_is_made_here() -> None:
    sent = PRESCRIPTION.model_copy(update={"code": "import os", "changes": tuple(
        change.model_copy(update={"text": "Call this number."}) for change in PRESCRIPTION.changes
    )})  # fmt: skip
    assert believed(InspectionSettings(), prescription=sent).prescription == PRESCRIPTION


def test_changes_that_are_not_valid_are_not_served() -> None:
    hostile = Change(action="initialize", arguments={"scheme": "he\nimport os"})
    sent = PRESCRIPTION.model_copy(update={"changes": (hostile,), "code": "import os"})
    kept = believed(InspectionSettings(), prescription=sent).prescription
    assert kept is not None
    assert (kept.outcome, kept.code, kept.changes) == ("not_found", None, ())


def test_without_a_trial_the_reason_is_kept_and_what_a_child_sent_is_dropped() -> None:
    kept = believed(InspectionSettings(trial="off"), trial=Trial(verdict="learns"), prescription=PRESCRIPTION)
    assert kept.prescription is None
    assert kept.trial == Trial(status="undetermined", reason=SWITCHED_OFF)


def test_with_the_trial_switched_off_the_verdict_is_that_of_a_local_inspection() -> None:
    settings = InspectionSettings(trial="off")
    vanishing = chain((0.01,) * 5)
    sent = {name: getattr(vanishing, name) for name in ("depth_decay", "layers", "parameters")}
    report = judge(believed(settings, **sent), policy=DEFAULT_POLICY, model=MODEL, inspection=None, settings=settings)
    found = next(outcome for outcome in report.rules if outcome.rule == "vanishing_signal")
    assert (found.severity, found.inferred_severity) == ("warn", "fail")
    assert SWITCHED_OFF in headline(report)
