"""Time and memory of the largest models that one job is meant for.

Run with `python -m benchmarks.large [--cases deep scattered spec gpt2]`. Each case runs in separate processes, on one
thread, whose CPU time is measured. Memory is the peak resident size minus that after the imports: parameters and the
pass. The goal is 1.3 times that of a bare forward and backward pass that keeps its gradients, as an optimizer's step
needs them. Ten thousand tiny tensors need less memory than their readings and rows, which dominate there.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported only in the child
    import torch
    from torch import nn

    from gradinspect.contracts.wire.messages import Job

    Subject = tuple[nn.Module, torch.Tensor]

GOAL = 1.3
CASES = {
    "deep": "300 × Linear(256) + ReLU, batch 128",
    "scattered": "10,000 tensors of 64 values, batch 8",
    "spec": "10,000 tensors of 64 values as a worker's job",
    "gpt2": "GPT-2 small (124 M) as TorchScript, 1 × 128 tokens",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--child", nargs=2, metavar=("CASE", "WHAT"))
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(*options.child)))
        return
    print(f"{'case':52} {'bare s':>8} {'ours s':>8} {'bare MiB':>9} {'ours MiB':>9} {'ratio':>6} {'goal':>5}")
    for case in options.cases:
        bare, ours = child(case, "bare"), child(case, "inspect")
        print(
            f"{CASES[case]:52} {bare['seconds']:8.2f} {ours['seconds']:8.2f} {bare['peak'] / 2**20:9.0f} "
            f"{ours['peak'] / 2**20:9.0f} {ours['peak'] / bare['peak']:6.2f} {GOAL:5.2f}",
            flush=True,
        )


def child(case: str, what: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.large", "--child", case, what]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found


def measured(case: str, what: str) -> dict[str, float]:
    """Run one case in this process; the bare pass runs twice, and the second is timed."""
    import torch

    import gradinspect.inspection.local  # noqa: F401  # so that its size counts as idle
    import workers.child.runner  # noqa: F401  # likewise

    torch.set_num_threads(1)  # on a busy machine, two threads that wait for each other take ten times as long
    warnings.simplefilter("ignore", DeprecationWarning)
    idle = resident("VmRSS")
    if case == "spec":
        run: Callable[[], object] = bare(*built(layer_norms())) if what == "bare" else child_job(layer_norms())
    else:
        model, inputs = {"deep": deep, "scattered": scattered, "gpt2": gpt2}[case]()
        run = bare(model, inputs) if what == "bare" else inspection(model, inputs)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak, which was higher while the model was built
    run()
    started = time.process_time()
    run()
    return {"seconds": time.process_time() - started, "peak": resident("VmHWM") - idle}


def resident(field: str) -> int:
    """Return a memory counter of this process in bytes, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def bare(model: nn.Module, inputs: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        model.zero_grad(set_to_none=True)
        model(inputs).float().mean().backward()

    return run


def inspection(model: nn.Module, inputs: torch.Tensor) -> Callable[[], object]:
    """Inspect in the caller's process, with rules and self-checks."""
    from gradinspect import inspect

    return lambda: inspect(model, inputs, loss="output_mean")


def child_job(job: Job) -> Callable[[], None]:
    """Run a spec as a worker's child does: build it, measure it, and write the frame with the measurements."""
    from gradinspect.contracts.wire.messages import ResultFrame
    from gradinspect.inspection.job import run_job
    from workers.child.runner import result_pieces

    def run() -> None:
        measured = run_job(job, model_bytes=None, weights_bytes=None, data_bytes=None)
        with Path(os.devnull).open("wb") as pipe:
            pipe.writelines(result_pieces(ResultFrame(measurements=measured)))

    return run


def layer_norms() -> Job:
    """Return a job with 5,000 layers of two tensors that do not change the signal."""
    from gradinspect.contracts.document import from_python
    from gradinspect.contracts.wire.messages import Job

    spec = {"input": {"shape": [64]}, "layers": [{"type": "LayerNorm"}] * 5_000}
    settings = {"loss": "random_cotangent", "data": {"samples": 8}}
    return from_python(Job, {"source": {"kind": "spec", "spec": spec}, "settings": settings, "limits": {}})


def built(job: Job) -> Subject:
    import torch

    from gradinspect.engine.network.build import build

    assert job.source.kind == "spec"
    return build(job.source.spec, seed=0, dtype=torch.float32, device=torch.device("cpu")), torch.randn(8, 64)


def deep() -> Subject:
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(300):
        linear = nn.Linear(256, 256)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers), torch.randn(128, 256)


def scattered() -> Subject:
    import torch
    from torch import nn

    class Scattered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ParameterList(torch.ones(64) + 0.01 * torch.randn(64) for _ in range(10_000))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Compute the output."""
            for part in self.parts:
                x = x * part
            return x

    torch.manual_seed(0)
    return Scattered(), torch.randn(8, 64)


def gpt2() -> Subject:
    import torch

    from benchmarks.models import Gpt

    torch.manual_seed(0)
    model = Gpt(vocabulary=50257, width=768, blocks=12, heads=12, context=1024)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    del model
    file.seek(0)
    loaded: nn.Module = torch.jit.load(file)
    return loaded, torch.randint(0, 50257, (1, 128))


if __name__ == "__main__":
    main()
