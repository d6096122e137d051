"""One child for each job: each ending has a failure code, and no state reaches the next job."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import monotonic

import pytest
import torch
from safetensors.torch import save
from torch import nn

from gradinspect.contracts.report.report import Measurements
from tests.support.children import RunChild
from tests.support.programs import (
    HEALTHY,
    EndlessLoop,
    EndlessSum,
    HugeTensor,
    Raises,
    ReadsAFile,
    TurnsGradientsOff,
    mlp,
    scripted,
)
from tests.support.queueing import SPEC
from workers.supervisor.children import Child
from workers.supervisor.endings import Died, Failed, Lost, Measured, Stopped

FOUR = {"shape": [4]}


def measured(ending: object) -> Measurements:
    assert isinstance(ending, Measured), ending
    return ending.measurements


def test_a_spec_is_measured_and_its_progress_is_reported(run_child: RunChild) -> None:
    done = run_child(spec=SPEC)
    found = measured(done.ending)
    assert [layer.kind for layer in found.layers] == ["Linear", "Linear"]
    assert found.environment.confinement == "limits"
    assert [stage for stage, _ in done.progress][:2] == ["load", "forward"]
    fractions = [fraction for _, fraction in done.progress]
    assert fractions == sorted(fractions)


@pytest.mark.parametrize("family", HEALTHY)
def test_uploads_of_every_family_run_under_full_confinement(run_child: RunChild, family: str) -> None:
    make, shape, dtype = HEALTHY[family]
    done = run_child(model=scripted(make()), sample_input={"shape": list(shape), "dtype": dtype})
    found = measured(done.ending)
    assert found.environment.confinement == "full"
    assert found.summary.total_grad_norm is not None


def test_every_diagnostic_works_under_full_confinement(run_child: RunChild) -> None:
    asked = {
        "diagnostics": ["gradients", "signals", "noise", "curvature", "jacobian", "training_trace"],
        "optimizer": {"type": "sgd", "lr": 0.1},
        "precision": {"intended": "float16"},
        "lr_scales": {"probe_steps": 10, "seeds": 1},
    }
    found = measured(run_child(model=scripted(mlp()), sample_input=FOUR, settings=asked).ending)
    reasons = [
        section.reason
        for section in (found.noise, found.curvature, found.jacobian, found.time_decay, found.lr_scales)
        if section is not None and section.reason is not None
    ]
    assert not any("permitted" in reason for reason in reasons)


def test_a_prescription_is_found_and_its_code_runs_under_full_confinement(run_child: RunChild) -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Linear(16, 16), nn.Tanh())]
    file = scripted(nn.Sequential(*layers, nn.Linear(16, 4)))
    settings = {"optimizer": {"type": "sgd", "lr": 0.1}, "trial": {"steps": 2000, "seconds": 60.0}}
    found = measured(run_child(model=file, sample_input={"shape": [16]}, settings=settings).ending).prescription
    assert found is not None
    assert (found.outcome, found.seeds) == ("found", 3)


def test_weights_and_data_of_an_upload_reach_the_model(run_child: RunChild) -> None:
    torch.manual_seed(3)
    layers = [("0.weight", (8, 4)), ("0.bias", (8,)), ("2.weight", (3, 8)), ("2.bias", (3,))]
    weights = {name: torch.full(shape, 0.25) for name, shape in layers}
    batch = {"x": torch.rand(6, 4), "y": torch.arange(6) % 3}
    data = {"artifact": f"sha256:{'0' * 64}", "inputs": ["x"], "target": "y"}
    done = run_child(spec=SPEC, weights=save(weights), data=save(batch), settings={"data": data})
    found = measured(done.ending)
    # All logits are equal, so the loss is that of uniform predictions for any batch.
    assert found.summary.loss == pytest.approx(torch.log(torch.tensor(3.0)).item(), rel=1e-6)
    assert not found.environment.synthetic_data
    assert found.environment.confinement == "full"


def test_the_time_limit_ends_an_endless_loop(run_child: RunChild) -> None:
    started = monotonic()
    done = run_child(model=scripted(EndlessLoop()), sample_input=FOUR, wall_seconds=1.0)
    assert isinstance(done.ending, Failed)
    assert done.ending.code == "time_limit"
    assert monotonic() - started >= 1.0


def test_the_cpu_limit_ends_an_endless_loop(run_child: RunChild) -> None:
    done = run_child(model=scripted(EndlessLoop()), sample_input=FOUR, cpu_seconds=1)
    assert isinstance(done.ending, Failed)
    assert done.ending.code == "cpu_limit"


def test_too_large_an_allocation_is_a_memory_limit(run_child: RunChild) -> None:
    done = run_child(model=scripted(HugeTensor()), sample_input=FOUR, memory_bytes=2**30)
    assert isinstance(done.ending, Failed)
    assert done.ending.code == "memory_limit"
    assert "1024 MiB" in done.ending.detail


def test_a_memory_limit_names_a_batch_size_that_fits(run_child: RunChild) -> None:
    wide = {"input": {"shape": [1024]}, "layers": [{"type": "Linear", "out_features": 1024}, {"type": "ReLU"}] * 4}
    done = run_child(spec=wide, settings={"data": {"samples": 2**20}}, memory_bytes=2**29)
    assert isinstance(done.ending, Failed)
    assert done.ending.code == "memory_limit"
    fits = int(done.ending.detail.rpartition("a batch of ")[2].partition(" would fit")[0])
    measured(run_child(spec=wide, settings={"data": {"samples": fits}}, memory_bytes=2**29).ending)


def test_a_file_that_is_larger_than_memory_is_a_memory_limit(run_child: RunChild) -> None:
    done = run_child(model=b"\0" * 2**28, sample_input=FOUR, memory_bytes=2**26)
    assert isinstance(done.ending, Failed)
    assert done.ending.code == "memory_limit"


def test_an_operator_that_reads_files_is_refused_before_it_runs(run_child: RunChild) -> None:
    done = run_child(model=scripted(ReadsAFile()), sample_input=FOUR)
    assert isinstance(done.ending, Failed)
    assert done.ending.code == "unsupported_operator"
    assert "aten::from_file" in done.ending.detail


def test_what_a_program_raises_is_named_in_its_own_words(run_child: RunChild) -> None:
    ending = run_child(model=scripted(Raises()), sample_input=FOUR).ending
    assert isinstance(ending, Failed), ending
    assert ending.code == "model_error"
    assert "the model raised ValueError: seek: Operation not permitted (1) (" in ending.detail
    assert "in forward: raise ValueError" in ending.detail


def test_a_file_that_is_no_model_is_an_invalid_model(run_child: RunChild) -> None:
    done = run_child(model=b"PK\x03\x04 not really", sample_input=FOUR)
    assert isinstance(done.ending, Failed)
    assert done.ending.code == "invalid_model"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_crash_is_reported_with_its_signal(run_child: RunChild, number: signal.Signals) -> None:
    def crash(child: Child) -> None:
        os.kill(child.pid, number)

    done = run_child(model=scripted(EndlessLoop()), sample_input=FOUR, meanwhile=crash)
    assert done.ending == Failed("model_crashed", f"the process that ran the uploaded model died of {number.name}")


def test_a_job_whose_child_was_killed_from_outside_may_be_retried(run_child: RunChild) -> None:
    done = run_child(model=scripted(EndlessLoop()), sample_input=FOUR, meanwhile=lambda child: child.kill())
    assert isinstance(done.ending, Died)


def test_a_lost_lease_or_a_stopping_worker_ends_the_child(run_child: RunChild) -> None:
    endless = scripted(EndlessLoop())
    assert run_child(model=endless, sample_input=FOUR, is_lost=lambda: True).ending == Lost()
    assert run_child(model=endless, sample_input=FOUR, is_stopping=lambda: True).ending == Stopped()


def test_a_closed_child_is_dead(run_child: RunChild) -> None:
    pids: list[int] = []
    run_child(
        model=scripted(EndlessLoop()),
        sample_input=FOUR,
        is_lost=lambda: True,
        meanwhile=lambda child: pids.append(child.pid),
    )
    deadline = monotonic() + 10
    while Path(f"/proc/{pids[0]}").exists():
        assert monotonic() < deadline, "the child lives on"


def test_a_result_over_the_limit_is_refused(run_child: RunChild) -> None:
    deep = {"input": {"shape": [4]}, "layers": [{"type": "Linear", "out_features": 4}] * 300}
    done = run_child(spec=deep, result_bytes=4096)
    assert isinstance(done.ending, Failed)
    assert done.ending.code == "memory_limit"
    assert "4096" in done.ending.detail


def test_jobs_share_no_state(run_child: RunChild) -> None:
    before = measured(run_child(spec=SPEC).ending)
    run_child(model=scripted(TurnsGradientsOff()), sample_input=FOUR)
    after = measured(run_child(spec=SPEC).ending)
    assert after.layers == before.layers
    assert after.parameters == before.parameters


def test_confinement_changes_no_number(run_child: RunChild) -> None:
    model = scripted(mlp())
    confined = measured(run_child(model=model, sample_input=FOUR, level="full").ending)
    free = measured(run_child(model=model, sample_input=FOUR, level="limits").ending)
    assert confined.layers == free.layers
    assert confined.parameters == free.parameters


def test_a_confined_child_uses_all_its_threads(run_child: RunChild) -> None:
    threads: list[str] = []

    def look(child: Child) -> None:
        deadline = monotonic() + 20
        while threads[-1:] != ["3"]:  # the main thread, and two for the parts of a sum
            assert monotonic() < deadline, set(threads)
            status = Path(f"/proc/{child.pid}/status").read_text()
            threads.append(status.partition("Threads:\t")[2].split("\n")[0])

    run_child(
        model=scripted(EndlessSum()), sample_input=FOUR, threads=3, meanwhile=look, is_lost=lambda: "3" in threads
    )


def test_a_child_is_confined_while_it_runs(run_child: RunChild) -> None:
    seen: dict[str, str] = {}

    def look(child: Child) -> None:
        deadline = monotonic() + 20
        while seen.get("Seccomp") != "2":
            assert monotonic() < deadline, seen
            status = Path(f"/proc/{child.pid}/status").read_text()
            for line in status.splitlines():
                key, _, value = line.partition(":\t")
                seen[key] = value

    run_child(model=scripted(EndlessLoop()), sample_input=FOUR, meanwhile=look, is_lost=lambda: "NoNewPrivs" in seen)
    assert seen["NoNewPrivs"] == "1"
    assert seen["Threads"] == "1"


def test_a_source_that_a_newer_release_wrote_is_a_named_failure(run_child: RunChild) -> None:
    ending = run_child(source={"kind": "spec", "spec": {**SPEC, "later": 1}}).ending
    assert isinstance(ending, Failed)
    assert ending.code == "internal"
    assert "/source/spec/later" in ending.detail
