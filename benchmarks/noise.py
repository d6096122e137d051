"""Cost of per-sample gradient norms over a bare forward and backward pass.

Run: python -m benchmarks.noise [model …]
"""

from __future__ import annotations

import warnings
from functools import partial

import torch

from benchmarks.allocations import memory_ratio
from benchmarks.models import MODELS
from benchmarks.pairs import Row, chosen, peer_rows, ratio_of, sections_input, show
from benchmarks.peers import NOISE_PEERS
from gradinspect.contracts.report.sections import Noise
from gradinspect.engine.per_sample.noise import noise_section

GOALS = {"mlp": 1.15, "resnet": 1.5, "gpt": 1.2}
MEMORY_GOAL = 1.1
PAIRS = {"mlp": 15, "resnet": 5, "gpt": 5}


def main() -> None:
    """Measure each model and print the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for name, make in chosen(MODELS).items():
        subject = make()
        mode = "eval" if name == "resnet" else "train"  # batch normalisation in training mode mixes samples
        subject.model.train(mode == "train")
        s = sections_input(subject, mode=mode)
        for _ in range(2):
            section = noise_section(s).section
            assert isinstance(section, Noise)
            assert section.status == "measured", section.reason
            subject.bare()
        ratio = ratio_of(partial(noise_section, s), subject.bare, pairs=PAIRS[name])
        memory = memory_ratio(subject.model, partial(noise_section, s), subject.bare)
        rows.append(Row("per-sample norms, noise scale", name, ratio, GOALS[name], memory, MEMORY_GOAL))
        rows += peer_rows(subject, NOISE_PEERS, pairs=PAIRS[name])
    show("Per-sample gradient norms (resnet in evaluation mode)", rows, NOISE_PEERS)


if __name__ == "__main__":
    main()
