"""Sections within a whole measurement: progress, budgets, seeds, refusals and exhausted memory."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import Measurements
from gradinspect.contracts.report.sections import Noise
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.sections import DIAGNOSTICS, SECTIONS
from gradinspect.contracts.sources import SpecSource
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.wire.messages import Job, Limits
from gradinspect.engine.first_order.context import Budget, SectionInput, SectionResult, refused
from gradinspect.engine.first_order.first_pass import Subject, first_pass
from gradinspect.engine.network.allocation import out_of_memory
from gradinspect.engine.network.batch import Batch
from gradinspect.inspection.job import computing_seconds, run_job
from gradinspect.inspection.measure import measure
from gradinspect.inspection.sections import PlannedSection, planned_sections, run_section, share_of
from gradinspect.inspection.stages import Stages
from tests.support.networks.section_inputs import mlp, normal

EVERYTHING = list(DIAGNOSTICS)
SPEC = {
    "input": {"shape": [6]},
    "layers": [
        {"type": "Linear", "out_features": 8},
        {"type": "Tanh"},
        {"type": "Linear", "out_features": 3},
    ],
}


def run(settings: dict[str, Any], *, wall_seconds: float = 300.0, progress: Any = lambda _s, _f: None) -> Measurements:
    job = Job(
        source=SpecSource(spec=from_python(ModelSpec, SPEC)),
        settings=from_python(InspectionSettings, {"data": {"samples": 16}, **settings}),
        limits=Limits(wall_seconds=wall_seconds),
    )
    return run_job(job, model_bytes=None, weights_bytes=None, data_bytes=None, progress=progress)


def test_every_requested_section_is_measured_and_adds_to_its_rows() -> None:
    measured = run({"diagnostics": EVERYTHING, "optimizer": {"type": "adam"}})
    for section in (measured.noise, measured.curvature, measured.jacobian, measured.time_decay, measured.trial):
        assert section is not None
        assert section.status == "measured", section.reason
    weight = measured.parameters[0]
    for field in ("hessian_trace", "curvature_along_gradient", "top_eigenvalue"):
        assert getattr(weight, field) is not None, field
    assert {"noise", "curvature", "jacobian", "training_trace"} <= measured.environment.stages.keys()
    assert measured.environment.peak_memory_bytes is not None


def test_sections_that_were_not_requested_are_absent() -> None:
    measured = run({})
    assert (measured.noise, measured.curvature, measured.jacobian, measured.time_decay) == (None, None, None, None)


def test_progress_names_the_stages_in_order_and_never_decreases() -> None:
    seen: list[tuple[str, float]] = []
    run({"diagnostics": EVERYTHING, "seeds": 2}, progress=lambda stage, fraction: seen.append((stage, fraction)))
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < fractions[-1] <= 1
    order = list(dict.fromkeys(stage for stage, _ in seen))
    assert order == ["load", "forward", "backward", "statistics", "noise", "jacobian", "curvature", "trial",
                     "training_trace", "prescription", "report"]  # fmt: skip


def test_several_seeds_have_the_sections_of_the_first() -> None:
    first = run({"diagnostics": ["noise"], "seeds": 1})
    three = run({"diagnostics": ["noise"], "seeds": 3})
    assert three.noise == first.noise
    assert [row.noise_scale for row in three.parameters] == [row.noise_scale for row in first.parameters]


def test_a_spent_budget_leaves_sections_undetermined_and_keeps_the_rest() -> None:
    settings = from_python(InspectionSettings, {"diagnostics": EVERYTHING, "loss": "mse"})
    x, y = normal(8, 4), normal(8, 3, seed=1)
    subject = Subject(mlp(4, 6, 3), Batch((x,), lambda _output: y, False, ""), 0)
    measured = measure([subject], settings, device=torch.device("cpu"), budget=Budget(0.0))
    assert measured.summary.loss is not None
    assert all(row.grad_norm is not None for row in measured.parameters)
    for section in (measured.noise, measured.curvature, measured.jacobian, measured.time_decay, measured.trial):
        assert section is not None
        assert section.status == "undetermined"
        assert str(section.reason).startswith("budget: needs about ")


def test_a_jobs_wall_time_leaves_room_for_its_report() -> None:
    assert computing_seconds(10.0) == pytest.approx(9.0)
    assert computing_seconds(300.0) == pytest.approx(295.0)


def test_a_budgets_parts_never_exceed_what_is_left() -> None:
    budget = Budget(10.0)
    assert budget.part(0.5).seconds_left <= 5.0
    assert budget.part(0.5, reserve=4.0).seconds_left <= 3.0
    assert budget.part(1.0, reserve=20.0).seconds_left <= 0.0
    assert refused(Budget(None), 1e9) is None
    assert "needs about 50 s" in str(refused(budget, 50.0))


def test_every_section_of_the_list_can_be_computed() -> None:
    settings = from_python(InspectionSettings, {"diagnostics": EVERYTHING, "lr_scales": {}})
    planned = planned_sections(settings)
    assert {section.record.name for section in planned} == {r.name for r in SECTIONS if r.computation is not None}
    for section in planned:
        hints = get_type_hints(section.function())
        assert hints.pop("return") is SectionResult
        assert list(hints.values()) == [SectionInput]


def test_the_scales_come_last_and_have_the_largest_share() -> None:
    settings = from_python(InspectionSettings, {"diagnostics": EVERYTHING, "lr_scales": {}})
    planned = planned_sections(settings)
    assert [section.record.stage for section in planned][-1] == "lr_scales"
    assert max(planned, key=lambda section: section.computation.weight).record.stage == "lr_scales"


def test_a_section_may_take_its_usual_time_up_to_a_quarter_of_the_rest() -> None:
    asked = from_python(InspectionSettings, {"diagnostics": EVERYTHING, "lr_scales": {}, "trial": "off"})
    planned = planned_sections(asked)
    noise, *_, scales = planned
    assert share_of(noise, planned, 0.001, 28.0) == pytest.approx(1 / 28)  # its weight among theirs
    assert share_of(noise, planned, 2.0, 28.0) == pytest.approx(6 / 28)  # three passes
    assert share_of(noise, planned, 100.0, 28.0) == 0.25
    assert share_of(noise, planned, 2.0, -1.0) == pytest.approx(1 / 28)
    assert share_of(noise, planned, 2.0, math.inf) == pytest.approx(1 / 28)
    assert share_of(scales, [scales], 2.0, 28.0) == 1.0


@pytest.mark.parametrize(("trial", "share"), [("auto", 0.25), ({"seconds": 90.0}, 1.0)])
def test_a_trial_takes_a_quarter_of_the_rest_unless_the_request_says_how_long(trial: object, share: float) -> None:
    (planned,) = planned_sections(from_python(InspectionSettings, {"trial": trial}))
    assert planned.record.name == "trial"
    assert share_of(planned, [planned], 0.001, 100.0) == share


def test_a_trial_that_is_switched_off_says_so() -> None:
    trial = run({"trial": "off"}).trial
    assert trial is not None
    assert (trial.status, trial.arms) == ("undetermined", ())
    assert str(trial.reason).startswith("disabled:")


def failing(error: BaseException) -> PlannedSection:
    def section(_s: SectionInput) -> SectionResult:
        raise error

    class Failing(PlannedSection):
        def function(self) -> Any:
            return section

    (noise,) = planned_sections(from_python(InspectionSettings, {"diagnostics": ["noise"], "trial": "off"}))
    return Failing(noise.record, noise.computation, noise.largest_share)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "memory: it ran out; a smaller batch leaves more room"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory: it ran out; a smaller batch leaves more room"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            "memory: it ran out; a smaller batch leaves more room",
        ),
        (RuntimeError("trace\nsomething torch does not do"), "torch refused: something torch does not do"),
        (InspectionError("unsupported_operator", "the operator x is not known"), "the operator x is not known"),
    ],
)
def test_a_section_that_fails_is_undetermined_with_the_reason(error: BaseException, reason: str) -> None:
    from tests.support.networks.section_inputs import section_input

    s = section_input(mlp(4, 3), normal(6, 4), normal(6, 3, seed=1))
    section = run_section(failing(error), s).section
    assert isinstance(section, Noise)
    assert (section.status, section.reason) == ("undetermined", reason)


def test_a_defect_of_ours_is_raised_and_not_reported_as_a_reason() -> None:
    from tests.support.networks.section_inputs import section_input

    s = section_input(mlp(4, 3), normal(6, 4), normal(6, 3, seed=1))
    with pytest.raises(KeyError):
        run_section(failing(KeyError("ours")), s)


class Hungry(nn.Module):
    """A model that runs out of memory on more than `fits` samples.

    Args:
        fits: number of samples.
        note: receives the size of each batch. A list on the model would be restored after each pass.
    """

    def __init__(self, fits: int, note: Callable[[int], None]) -> None:
        super().__init__()
        self.linear, self.fits, self.note = nn.Linear(4, 3).double(), fits, note

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.note(x.shape[0])
        if x.shape[0] > self.fits:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")
        output: torch.Tensor = self.linear(x)
        return output


@pytest.mark.parametrize(
    ("fits", "detail", "tried"),
    [
        (9, "a batch of 32 samples does not fit into the memory that is left; one of 8 does", [32, 16, 8]),
        (0, "one sample does not fit into the memory that is left (the batch has 32)", [32, 16, 8, 4, 2, 1]),
    ],
)
def test_running_out_of_memory_names_the_batch_that_would_fit(fits: int, detail: str, tried: list[int]) -> None:
    seen: list[int] = []
    model = Hungry(fits, seen.append)
    x, y = normal(32, 4), normal(32, 3, seed=1)
    subject = Subject(model, Batch((x,), lambda _output: y, False, ""), 0)
    with pytest.raises(InspectionError) as caught:
        measure([subject], InspectionSettings(loss="mse"), device=torch.device("cpu"))
    assert caught.value.code == "memory_limit"
    assert caught.value.detail == detail
    assert seen == tried


PROGRAM = """
import resource, torch
from torch import nn
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.engine.network.batch import Batch
from gradinspect.engine.first_order.first_pass import Subject, first_pass
from gradinspect.inspection.measure import measure

torch.set_num_threads(1)
layers = [layer for _ in range(40) for layer in (nn.Linear(64, 64), nn.Tanh())]
model = nn.Sequential(*layers, nn.Linear(64, 3))
def subject(samples):
    x, y = torch.randn(samples, 64), torch.randn(samples, 3)
    return Subject(model, Batch((x,), lambda _output: y, False, ""), 0)
settings, cpu = InspectionSettings(loss="mse", trial="off"), torch.device("cpu")
measure([subject(8)], settings, device=cpu)  # what torch imports and keeps
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20,) * 2)
try:
    measure([subject(16384)], settings, device=cpu)
except InspectionError as error:
    print(error.code, "|", error.detail)
"""


def test_a_real_memory_limit_is_reported_by_a_separate_process() -> None:
    # 16,384 samples hold 80 activations of 4 MiB each; 100 MiB are left, so that about 4,096 fit.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    code, _, detail = done.stdout.strip().partition(" | ")
    assert code == "memory_limit"
    assert "a batch of 16384 samples does not fit" in detail
    fits = int(detail.split("one of ")[1].split(" ")[0])
    assert 512 <= fits <= 8192


def test_other_errors_are_not_taken_for_a_shortage_of_memory() -> None:
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("can't allocate memory"))


def test_stages_add_up_the_seconds_of_repeated_names_and_report_fractions_of_the_plan() -> None:
    seen: list[tuple[str, float]] = []
    stages = Stages(lambda name, fraction: seen.append((name, fraction)), [("a", 1.0), ("b", 2.0), ("a", 1.0)])
    stages.enter("a")
    stages.enter("b")
    stages.within(0.5)
    stages.within(0.25)
    stages.enter("a")
    stages.stop()
    assert seen == [("a", 0.0), ("b", 0.25), ("b", 0.5), ("b", 0.5), ("a", 0.75)]
    assert stages.seconds.keys() == {"a", "b"}
    assert all(seconds >= 0 for seconds in stages.seconds.values())


def test_a_skipped_stage_counts_as_done() -> None:
    seen: list[tuple[str, float]] = []
    stages = Stages(lambda name, fraction: seen.append((name, fraction)), [("a", 1.0), ("b", 2.0), ("c", 1.0)])
    stages.enter("c")
    assert seen == [("c", 0.75)]


def test_the_passes_over_later_seeds_have_their_time_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from gradinspect.inspection import measure as module

    left: list[float] = []

    def slow_pass(*arguments: Any, **options: Any) -> SectionInput:
        return replace(first_pass(*arguments, **options), pass_seconds=10.0)

    def note_budget(section: PlannedSection, s: SectionInput) -> SectionResult:
        left.append(s.budget.seconds_left)
        return SectionResult(Noise(status="undetermined", reason="not computed"))

    monkeypatch.setattr(module, "first_pass", slow_pass)
    monkeypatch.setattr(module, "run_section", note_budget)
    settings = from_python(InspectionSettings, {"diagnostics": ["noise"], "loss": "mse", "seeds": 3, "trial": "off"})
    x, y = normal(8, 4), normal(8, 3, seed=1)
    subjects = (Subject(mlp(4, 3), Batch((x,), lambda _output: y, False, ""), seed) for seed in range(3))
    measure(subjects, settings, device=torch.device("cpu"), budget=Budget(100.0))
    assert len(left) == 1
    assert 0.0 < left[0] <= 100.0 - 2 * 2.0 * 10.0  # two passes, each of up to twice the first one's time
