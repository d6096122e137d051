"""Exported programs in confined children: every network runs, refusals are named, and the next job is unharmed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.children import RunChild
from tests.support.exported_files import altered, exported_files, node_of
from tests.support.networks.exported_models import EXPORTED
from workers.supervisor.endings import Failed, Measured

SOURCE = {"kind": "exported", "exported": f"sha256:{'0' * 64}"}


@pytest.mark.parametrize("name", EXPORTED)
def test_every_network_runs_under_full_confinement(run_child: RunChild, name: str) -> None:
    done = run_child(source=SOURCE, model=exported_files()[name])
    assert isinstance(done.ending, Measured), (done.ending, done.log)
    measured = done.ending.measurements
    assert measured.environment.confinement == "full"
    assert measured.environment.mode == EXPORTED[name].mode
    assert measured.layers


def test_every_diagnostic_works_for_an_exported_program(run_child: RunChild) -> None:
    asked = {
        "diagnostics": ["gradients", "signals", "noise", "curvature", "jacobian", "training_trace"],
        "optimizer": {"type": "sgd", "lr": 0.1},
        "precision": {"intended": "float16"},
    }
    done = run_child(source=SOURCE, model=exported_files()["mlp_dynamic"], settings=asked)
    assert isinstance(done.ending, Measured), (done.ending, done.log)
    found = done.ending.measurements
    for section in (found.noise, found.curvature, found.jacobian, found.time_decay):
        assert section is not None
        assert section.reason is None


def test_a_refusal_is_named_and_the_next_job_runs(run_child: RunChild) -> None:
    def forbidden(document: Any) -> None:
        node_of(document, "torch.ops.aten.linear.default")["target"] = "torch.ops.aten.save.default"

    failed = run_child(source=SOURCE, model=altered(exported_files()["mlp"], forbidden)).ending
    assert isinstance(failed, Failed)
    assert failed.code == "unsupported_operator"
    assert "aten.save.default is not allowed" in failed.detail
    other = run_child(source=SOURCE, model=exported_files()["mlp"], settings={"mode": "eval"}).ending
    assert isinstance(other, Failed)
    assert (other.code, "exported in train mode" in other.detail) == ("invalid_model", True)
    assert isinstance(run_child(source=SOURCE, model=exported_files()["mlp"]).ending, Measured)
