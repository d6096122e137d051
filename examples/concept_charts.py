"""Draw the charts of docs/concepts.md from real inspections: `python examples/concept_charts.py docs/charts`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gradinspect import inspect
from gradinspect.report.charts.signal_charts import signal_profile

HIDDEN = 256


def network(depth: int, activation: str, weight: dict[str, Any]) -> dict[str, Any]:
    """Return a spec with `depth` hidden layers of equal width and a head of ten classes."""
    hidden = [{"type": "Linear", "out_features": HIDDEN}, {"type": activation}]
    return {
        "input": {"shape": [HIDDEN]},
        "layers": [{"repeat": depth, "layers": hidden}, {"type": "Linear", "out_features": 10}],
        "init": {"weight": weight, "bias": {"name": "zeros_"}},
    }


NETWORKS = {
    "sigmoid-xavier": network(10, "Sigmoid", {"name": "xavier_normal_"}),
    "relu-xavier": network(30, "ReLU", {"name": "xavier_normal_"}),
    "relu-he": network(30, "ReLU", {"name": "kaiming_normal_", "nonlinearity": "relu"}),
    "tanh-large": network(30, "Tanh", {"name": "xavier_normal_", "gain": 2.5}),
}


def main(folder: Path) -> None:
    """Write one SVG for each network."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, spec in NETWORKS.items():
        report = inspect(spec)
        (folder / f"{name}.svg").write_text(signal_profile(report.layers), encoding="utf-8")
        first, last = report.parameters[0].grad_norm, report.parameters[-2].grad_norm
        assert first is not None
        assert last is not None
        print(name, report.verdict, report.layers[0].cumulative_backward_gain, first / last)
        print("  ", [finding.rule for finding in report.findings])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
