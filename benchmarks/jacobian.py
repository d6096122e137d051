"""Cost of the spectrum of the input-output Jacobian and of a traced training step over a bare pass.

Run: python -m benchmarks.jacobian [model …]
"""

from __future__ import annotations

import warnings
from functools import partial

import torch

from benchmarks.models import MODELS
from benchmarks.pairs import Row, chosen, ratio_of, sections_input, show
from gradinspect.engine.curvature.jacobian import jacobian_section
from gradinspect.inspection.training_trace import STEPS, training_trace_section

PAIRS = {"mlp": 5, "resnet": 3, "gpt": 3}


def main() -> None:
    """Measure each model and print the table; neither cost has a goal."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = []
    for name, make in chosen(MODELS).items():
        subject = make()
        subject.model.eval()
        s = sections_input(subject, mode="eval")
        if subject.inputs.is_floating_point():
            jacobian_section(s)
            ratio = ratio_of(partial(jacobian_section, s), subject.bare, pairs=PAIRS[name])
            rows.append(Row("Jacobian of 16 samples, written out", name, ratio, None))
        training_trace_section(s)
        steps = ratio_of(partial(training_trace_section, s), subject.bare, pairs=1)
        rows.append(Row("one step of the training trace", name, steps / STEPS, None))
    show("Jacobian and training trace", rows, {})


if __name__ == "__main__":
    main()
