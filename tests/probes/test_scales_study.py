"""The study's machinery on a few cells, and its goals on a reduced set of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scales_study
from benchmarks.scales_study import DEEP, FIRST_SEED, Cell, geometric_mean, null_cells, read, run, table


def test_a_study_resumes_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def noted(cell: Cell) -> dict[str, object]:
        ran.append(cell.key)
        return {"verdict": "keep_uniform", "ratio": 1.0}

    monkeypatch.setattr(scales_study, "run_null", noted)
    out = tmp_path / "study.jsonl"
    todo = list(null_cells(3))
    run(todo[:2], out)
    run(todo, out)
    assert ran == [cell.key for cell in todo]
    assert [record["key"] for record in read(out)] == ran
    assert ("null arm accepted", "0 of 3", "≤ 2 of 64") in table(read(out))


def test_the_table_counts_wins_and_losses_on_unseen_seeds() -> None:
    name = next(iter(scales_study.NETS))
    ratios = [0.5, 0.9, 1.2, 2.0]
    records = [
        {"part": "net", "net": name, "optimizer": "sgd", "verdict": "use"}
        | {"unseen": [ratio] * 3, "unseen_mean": [ratio / 1.3] * 3}
        for ratio in ratios
    ]
    rows = {what: measured for what, measured, _ in table(records)}
    end, mean = "use, unseen seeds, loss after 300 steps", "use, unseen seeds, mean log loss over 300 steps"
    assert rows[f"{end}: wins"] == "2 of 4 (50 %)"
    assert rows[f"{end}: worse than 1.05 ×"] == "2 of 4 (50 %)"
    assert rows[f"{end}: worse than 1.5 ×"] == "1 of 4 (25 %)"
    assert rows[f"{mean}: wins"] == "3 of 4 (75 %)"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_scales_help_on_the_networks_where_the_study_found_a_gain(tmp_path: Path) -> None:
    # The other unevenly scaled network learns almost as well with one rate: its gain is within its seeds' scatter.
    # Three unseen seeds of wine end between 0.009 and 0.94 of uniform: too far apart to hold their mean against 0.15.
    left_out = {"ReLU 4×32 uneven ÷5 ×5, digits", "sigmoid 4×32 Glorot, wine"}
    nets = {name: net for name, net in scales_study.NETS.items() if net.goal is not None and name not in left_out}
    assert len(nets) == 4
    run([Cell("net", name, "sgd", FIRST_SEED) for name in nets], tmp_path / "study.jsonl")
    for record in read(tmp_path / "study.jsonl"):
        goal = nets[record["net"]].goal
        assert goal is not None
        assert record["verdict"] == "use", record
        assert geometric_mean(record["unseen"]) <= goal, record


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_glorot_sigmoid_layers_learn_with_a_remedy_alone(tmp_path: Path) -> None:
    run([Cell("deep", DEEP, "sgd", FIRST_SEED)], tmp_path / "study.jsonl")
    (record,) = read(tmp_path / "study.jsonl")
    assert record["verdict"] == "none_learns"
    assert any(learned for learned, _ in record["remedies"].values())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_gate_rejects_random_scales(tmp_path: Path) -> None:
    # At the goal's rate of 2 in 64, more than two of 24 are accepted by chance in 4 % of such studies; the cells are
    # seeded, so this one either passes or does not.
    run(list(null_cells(24)), tmp_path / "study.jsonl")
    assert sum(record["verdict"] == "use" for record in read(tmp_path / "study.jsonl")) <= 2
