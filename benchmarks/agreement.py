"""Compare the curvature with curvlinops and PyHessian on a network of 100,000 parameters.

Run: python -m benchmarks.agreement. Six Linear(128) + Tanh and a head of ten classes, cross entropy, batch 64, float64.
The program fails when two numbers of a line differ by more than `within`:

- rounding: products of the same matrix with the same vectors, 1e-10 relative;
- each estimate of an eigenvalue is within its residual of the exact one: the sum of both residuals;
- independent estimates of a trace: four standard errors of their difference.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import fmean, stdev

import torch
from scipy.sparse.linalg import eigsh
from torch import nn

from benchmarks.models import Subject
from benchmarks.pairs import sections_input
from gradinspect.contracts.report.sections import Curvature
from gradinspect.engine.curvature.curvature import curvature_section
from gradinspect.engine.curvature.hutchinson import signs
from gradinspect.engine.curvature.whole_hessian import PROBES
from gradinspect.engine.network.reproducible import generator

ROUNDING = 1e-10
PYHESSIAN_BIAS = 2e-6  # it divides by norm + 1e-6, whose square scales the quotient
STEPS = 2000


@dataclass(frozen=True)
class Line:
    """A number of the engine, the peer's value, and the largest allowed difference."""

    what: str
    peer: str
    ours: float
    theirs: float
    within: float

    @property
    def agrees(self) -> bool:
        return abs(self.ours - self.theirs) <= self.within


def medium() -> Subject:
    """Return the network with its batch, in float64."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(128, 128), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(128, 10)).double()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.xavier_normal_(parameter)
    return Subject("medium", model, torch.randn(64, 128).double(), torch.randint(0, 10, (64,)))


def measure(subject: Subject) -> Curvature:
    section = curvature_section(sections_input(subject)).section
    assert isinstance(section, Curvature)
    return section


def curvlinops_lines(subject: Subject, ours: Curvature) -> Iterator[Line]:
    """Compare products, eigenvalue and trace of the whole, and every column of the head's block, with curvlinops."""
    from curvlinops import HessianLinearOperator, hutchinson_trace

    def operator(module: nn.Module) -> HessianLinearOperator:
        return HessianLinearOperator(
            subject.model, nn.CrossEntropyLoss(), list(module.parameters()), [(subject.inputs, subject.target)]
        )

    hessian = operator(subject.model)
    g = flat_gradient(subject)
    along = float(g @ (hessian @ g) / (g @ g))
    yield exact("gᵀHg/gᵀg", "curvlinops", ours.curvature_along_gradient, along)

    value, vector = eigsh(hessian.to_scipy(), k=1, which="LA", tol=1e-9)
    v = torch.from_numpy(vector[:, 0])
    residual = float((hessian @ v - value[0] * v).norm())
    yield Line(
        "top eigenvalue", "curvlinops, eigsh", number(ours.top_eigenvalue), float(value[0]),
        number(ours.top_eigenvalue_residual) + residual,
    )  # fmt: skip

    draws = generator(0, "hutchinson")
    probes = [signs(len(g), draws, g) for _ in range(PROBES)]
    same = fmean(float(probe @ (hessian @ probe)) for probe in probes)
    yield exact("trace, the same probes", "curvlinops", ours.hessian_trace, same)
    torch.manual_seed(1)
    own = [float(hutchinson_trace(hessian, num_matvecs=1)) for _ in range(100)]
    yield estimated("trace, its own probes", "curvlinops", ours.hessian_trace, ours.hessian_trace_stderr, own)

    row = ours.layers[-1]
    assert isinstance(subject.model, nn.Sequential)
    head = subject.model[-1]
    block = operator(head)
    matrix = torch.cat([block @ part for part in torch.split(torch.eye(block.shape[1]).double(), 129, dim=1)], dim=1)
    yield Line(
        "head: trace, every column", "curvlinops", number(row.hessian_trace), float(matrix.trace()),
        4 * number(row.hessian_trace_stderr),
    )  # fmt: skip
    yield Line(
        "head: top eigenvalue, eigvalsh", "curvlinops", number(row.top_eigenvalue),
        float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]), number(row.top_eigenvalue_residual),
    )  # fmt: skip
    last = torch.cat([part.grad.reshape(-1) for part in head.parameters() if part.grad is not None])
    along = float(last @ matrix @ last / (last @ last))
    yield exact("head: gᵀHg/gᵀg", "curvlinops", row.curvature_along_gradient, along)


def pyhessian_lines(subject: Subject, ours: Curvature) -> Iterator[Line]:
    """Compare the whole network with PyHessian: power iteration and PyHessian's probes."""
    from pyhessian import hessian
    from pyhessian.utils import group_product, hessian_vector_product

    torch.set_default_dtype(torch.float64)  # it draws vectors of the default type
    torch.manual_seed(2)
    subject.model.zero_grad(set_to_none=True)
    made = hessian(subject.model, nn.CrossEntropyLoss(), data=(subject.inputs, subject.target), cuda=False)
    slopes = [slope.detach() for slope in made.gradsH]
    bent = hessian_vector_product(made.gradsH, made.params, slopes)
    along = float(group_product(slopes, bent) / group_product(slopes, slopes))
    yield exact("gᵀHg/gᵀg", "PyHessian", ours.curvature_along_gradient, along)

    (value,), (vector,) = made.eigenvalues(maxIter=STEPS, tol=1e-9)
    bent = hessian_vector_product(made.gradsH, made.params, vector)
    residual = math.sqrt(sum(float((h - value * v).square().sum()) for h, v in zip(bent, vector, strict=True)))
    yield Line(
        "top eigenvalue", "PyHessian, power", number(ours.top_eigenvalue), value,
        number(ours.top_eigenvalue_residual) + residual + PYHESSIAN_BIAS,
    )  # fmt: skip
    own = [float(probe) for probe in made.trace(maxIter=100, tol=0.0)]
    yield estimated("trace, its own probes", "PyHessian", ours.hessian_trace, ours.hessian_trace_stderr, own)
    subject.model.zero_grad(set_to_none=True)


PEERS: dict[str, Callable[[Subject, Curvature], Iterator[Line]]] = {
    "curvlinops": curvlinops_lines,
    "pyhessian": pyhessian_lines,
}


def flat_gradient(subject: Subject) -> torch.Tensor:
    subject.bare()
    return torch.cat([p.grad.reshape(-1) for p in subject.model.parameters() if p.grad is not None])


def exact(what: str, peer: str, ours: float | None, theirs: float) -> Line:
    return Line(what, peer, number(ours), theirs, ROUNDING * abs(theirs))


def estimated(what: str, peer: str, ours: float | None, error: float | None, probes: list[float]) -> Line:
    theirs = stdev(probes) / math.sqrt(len(probes))
    return Line(what, peer, number(ours), fmean(probes), 4 * math.hypot(number(error), theirs))


def number(value: float | None) -> float:
    """Return the value, or NaN (equal to nothing) where it is missing."""
    return math.nan if value is None else value


def main() -> int:
    """Print the table; return 1 when a line disagrees."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    subject = medium()
    ours = measure(subject)
    parameters = sum(parameter.numel() for parameter in subject.model.parameters())
    print(f"{parameters:,} parameters, {PROBES} probes, trace {ours.hessian_trace} ± {ours.hessian_trace_stderr}")
    print(f"{'number':32} {'peer':18} {'ours':>16} {'theirs':>16} {'apart':>9} {'within':>9}")
    failed = False
    for package, lines in PEERS.items():
        if find_spec(package) is None:
            print(f"{package}: not installed")
            continue
        for line in lines(subject, ours):
            failed |= not line.agrees
            print(
                f"{line.what:32} {line.peer:18} {line.ours:16.10g} {line.theirs:16.10g} "
                f"{abs(line.ours - line.theirs):9.1e} {line.within:9.1e}{'' if line.agrees else '  DISAGREES'}",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
