"""Singular values of the input-output Jacobian: how a small change of a sample moves the network's output for it.

Each sample has its own Jacobian, J_n = ∂f(x_n)/∂x_n; the numbers summarise the singular values of all of them. Small
Jacobians are written out by vector-Jacobian products, row by row or column by column, whichever is shorter, for all
samples at once. For large ones random probes give the mean square, and Lanczos on J·Jᵀ the largest value.
Source: Saxe et al. 2014 and Pennington et al. 2017: where the spectrum is near 1, gradients keep their size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch

from gradinspect.contracts.report.sections import Jacobian
from gradinspect.engine.autograd import short_second_derivatives
from gradinspect.engine.curvature.hessian import named_operators
from gradinspect.engine.curvature.hutchinson import signs
from gradinspect.engine.curvature.lanczos import random_start, top_eigenvalue
from gradinspect.engine.first_order.context import SectionInput, SectionResult, refused
from gradinspect.engine.first_order.replay import only_tensor, replaying, run_model, twice_differentiable
from gradinspect.engine.network.reproducible import generator, seeded
from gradinspect.engine.rows.layer_rows import finite

SAMPLES = 16  # chosen: enough to see how far samples differ
WRITTEN_OUT = 256  # largest number of rows or columns to write out; the cost of the SVD grows with its square
WRITTEN_BYTES = 256 * 2**20
PROBES = 32
LANCZOS_STEPS = 30
TOLERANCE = 1e-3


@dataclass(frozen=True)
class _Map:
    """The network linearised at a few samples: products with J and Jᵀ of all samples at once.

    Attributes:
        points: the inputs that are differentiated.
        output: the network's output, (samples, …), with its graph.
        samples: number of samples.
    """

    points: list[torch.Tensor]
    output: torch.Tensor
    samples: int

    @property
    def outputs(self) -> int:
        """Number of elements of one sample's output."""
        return self.output.numel() // self.samples

    @property
    def inputs(self) -> int:
        """Number of elements of one sample's inputs."""
        return sum(point.numel() for point in self.points) // self.samples

    def pull(self, u: torch.Tensor, *, create_graph: bool = False) -> torch.Tensor:
        """Compute Jᵀu: (samples, outputs) → (samples, inputs)."""
        # A scalar needs no `grad_outputs`, whose shape check makes torch import a computer algebra system.
        scalar = (self.output * u.view_as(self.output)).sum()
        gradients = torch.autograd.grad(
            scalar, self.points, retain_graph=True, create_graph=create_graph, allow_unused=True
        )
        parts = [torch.zeros_like(x) if part is None else part for x, part in zip(self.points, gradients, strict=True)]
        return torch.cat([part.reshape(self.samples, -1) for part in parts], 1)

    def pushforward(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return v → Jv, (samples, inputs) → (samples, outputs): Jᵀu, differentiated along u, in which it is linear."""
        u = torch.zeros_like(self.output).reshape(self.samples, -1).requires_grad_()
        with named_operators(), short_second_derivatives():
            pulled = self.pull(u, create_graph=True)
        if not pulled.requires_grad:
            return lambda v: v.new_zeros(self.samples, self.outputs)

        def push(v: torch.Tensor) -> torch.Tensor:
            with named_operators():
                (image,) = torch.autograd.grad((pulled * v).sum(), u, retain_graph=True, allow_unused=True)
            return torch.zeros_like(u) if image is None else image

        return push


def jacobian_section(s: SectionInput) -> SectionResult:
    """Measure the spectrum on the first samples of the batch.

    Cost: written out, one backward pass over `SAMPLES` samples for each output of a sample (or each input); else
    `PROBES` of them, and two for each Lanczos step.
    """
    samples = min(s.batch.inputs[0].shape[0] if s.batch.inputs[0].dim() else 0, SAMPLES)
    reason = _not_measurable(s, samples) or refused(s.budget, s.pass_seconds)
    if reason is not None:
        return SectionResult(Jacobian(status="undetermined", reason=reason))
    with replaying(s), twice_differentiable(), torch.enable_grad():
        points = [x[:samples].detach().clone() for x in s.batch.inputs]
        moving = [point.requires_grad_() for point in points if point.is_floating_point()]
        with seeded(s.seed, s.device):
            output = only_tensor(run_model(s, points))
        if output.grad_fn is None:
            return SectionResult(Jacobian(status="undetermined", reason="the output does not depend on the input"))
        network = _Map(moving, output, samples)
        if samples > 1 and _mixes(network, s):
            reason = "samples mix, so that none has its own Jacobian; batch normalisation stops mixing in mode eval"
            return SectionResult(Jacobian(status="undetermined", reason=reason))
        return SectionResult(_spectrum(network, s))


def _not_measurable(s: SectionInput, samples: int) -> str | None:
    if not samples or not any(x.is_floating_point() for x in s.batch.inputs):
        return "the input holds integers; there is no derivative with respect to them"
    if not s.reading.output_shape or s.reading.output_shape[0] != s.batch.inputs[0].shape[0]:
        return f"the output {list(s.reading.output_shape)} does not count samples on its first axis"
    return None


def _mixes(network: _Map, s: SectionInput) -> bool:
    """Check whether the outputs of the first half of the samples have gradients at the inputs of the others."""
    draws = generator(s.seed, "jacobian mixing")
    u = torch.randn(network.samples, network.outputs, generator=draws).to(network.output)
    half = network.samples // 2
    u[half:] = 0
    return bool(network.pull(u)[half:].ne(0).any())


def _spectrum(network: _Map, s: SectionInput) -> Jacobian:
    short = min(network.outputs, network.inputs)
    bytes_needed = network.samples * network.outputs * network.inputs * 8
    started = time.perf_counter()
    network.pull(torch.ones(network.samples, network.outputs).to(network.output))
    product_seconds = time.perf_counter() - started
    by_rows = network.outputs <= network.inputs
    fits = short <= WRITTEN_OUT and bytes_needed <= WRITTEN_BYTES
    if fits and s.budget.allows(short * product_seconds * (1 if by_rows else 2)):
        return _written_out(network, s, by_rows=by_rows)
    return _probed(network, s, product_seconds)


def _written_out(network: _Map, s: SectionInput, *, by_rows: bool) -> Jacobian:
    apply = network.pull if by_rows else network.pushforward()
    count = network.outputs if by_rows else network.inputs
    rows = []
    for index in range(count):
        unit_vector = torch.zeros(network.samples, count).to(network.output)
        unit_vector[:, index] = 1
        rows.append(apply(unit_vector).detach().double())
        s.progress((index + 1) / count)
    values = torch.linalg.svdvals(torch.stack(rows, 1))  # (samples, short)
    return Jacobian(
        largest=finite(float(values.max())),
        smallest=finite(float(values.min())),
        mean_square=finite(float(values.square().mean())),
        samples=network.samples,
    )


def _probed(network: _Map, s: SectionInput, product_seconds: float) -> Jacobian:
    """Estimate the mean square by ‖Jᵀu‖² over random signs u (Hutchinson on J·Jᵀ), the largest by Lanczos."""
    draws = generator(s.seed, "jacobian probes")
    short = min(network.outputs, network.inputs)
    squares: list[float] = []
    for probe in range(PROBES):
        if squares and not s.budget.allows(product_seconds):
            break
        u = signs(network.samples * network.outputs, draws, network.output.detach())
        image = network.pull(u.reshape(network.samples, -1))
        squares.append(float(image.double().square().sum()) / (network.samples * short))
        s.progress(0.5 * (probe + 1) / PROBES)
    largest, reason = _largest(network, s, product_seconds)
    return Jacobian(
        reason=reason,
        largest=largest,
        mean_square=finite(fmean(squares)),
        samples=network.samples,
    )


def _largest(network: _Map, s: SectionInput, product_seconds: float) -> tuple[float | None, str | None]:
    """Return the largest singular value, and what is missing and why."""
    note = f"smallest: a Jacobian of {network.outputs} × {network.inputs} is not written out"
    too_long = refused(s.budget, 3 * LANCZOS_STEPS * product_seconds)
    if too_long is not None:
        return None, f"{note}; largest: {too_long}"
    push = network.pushforward()

    def j_jt(u: torch.Tensor, out: torch.Tensor) -> None:
        out.view(network.samples, -1).copy_(push(network.pull(u.reshape(network.samples, -1)).detach()))

    size, draws = network.samples * network.outputs, generator(s.seed, "jacobian lanczos")
    top = top_eigenvalue(
        j_jt,
        random_start(size, draws, network.output),
        max_products=LANCZOS_STEPS,
        tolerance=TOLERANCE,
        go_on=lambda _done: s.budget.allows(3 * product_seconds),
    )
    return finite(math.sqrt(max(top.value, 0.0))), note
