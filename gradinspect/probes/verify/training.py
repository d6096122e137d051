"""Short training runs of one model from stored weights; afterwards the model is restored.

All runs share the model: a run copies its weights in, trains, and copies them out. That works for eager modules and
TorchScript alike, and two runs that differ in one thing differ in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import nn

from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.first_order.replay import run_model
from gradinspect.engine.network.optimizers import Update, UpdateState
from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex
from gradinspect.engine.network.reproducible import left_as_found, ordinary_graphs, seeded
from gradinspect.probes.verify.probe_data import ProbeData
from gradinspect.probes.verify.trained_parameters import TrainedParameters, suitable_threads

BLOCK = 25  # steps between two looks at the clock and at a run's losses; random draws restart with each
DIVERGED = 1e3  # times the first loss; chosen: no run recovered from there within a probe
KEPT_BYTES = 2**28  # of weights of finished runs, so that an extension need not train them again


@dataclass(frozen=True, eq=False)
class Weights:
    """Values of the trained parameters and of the buffers, in the model's order."""

    parameters: list[torch.Tensor]
    buffers: list[torch.Tensor]

    @property
    def size_bytes(self) -> int:
        """Return the size of all values."""
        return _size_bytes([*self.parameters, *self.buffers])


@dataclass(frozen=True, eq=False)
class Start:
    """The weights at which the runs of one seed begin, and the seed of what is random in them.

    Attributes:
        weights: returns the weights; draws them again each time where too many starts would not fit into memory.
    """

    seed: int
    weights: Callable[[], Weights]


@dataclass(eq=False)
class _Reached:
    weights: Weights
    update: UpdateState

    @property
    def size_bytes(self) -> int:
        return self.weights.size_bytes + _size_bytes([*self.update.first, *self.update.second])


@dataclass(eq=False)
class Run:
    """One training run: a start, a rule, learning rates, and the losses so far.

    Attributes:
        rates: one learning rate a parameter.
        ended: why it is not continued; None for a run that can go on or has reached its length.
    """

    start: Start
    update: Update
    rates: Sequence[float]
    losses: list[float] = field(default_factory=list)
    ended: Literal["diverged", "dropped"] | None = None
    reached: _Reached | None = None


class Trainer:
    """Trains the model of a section on the probe's data, run by run. Use it inside `borrowed()`."""

    def __init__(self, s: SectionInput, data: ProbeData, entries: Sequence[ParameterEntry]) -> None:
        self.data = data
        self._s = s
        self._trained = TrainedParameters(entries)
        self._parameters = self._trained.tensors
        self._buffers = list(s.model.buffers())
        self._orders: dict[tuple[int, int], list[torch.Tensor] | None] = {}
        self._kept_bytes = 0
        self._drawn: dict[int, Weights] = {}
        self._live: tuple[Run, UpdateState] | None = None  # the run whose weights the model has at the moment
        self.steps_run = 0
        self._own = self._present()

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Train inside the block; weights, buffers, modes and gradients are put back."""
        multiplications = sum(parameter.numel() for parameter in self._parameters) * self.data.batch_size
        try:
            with (
                suitable_threads(multiplications),
                left_as_found(self._s.model, self._s.settings.mode),
                ordinary_graphs(),
            ):
                yield
        finally:
            self._load(self._own)

    def starts(self, count: int, *, after: int = 0) -> list[Start]:
        """Make one start per seed: fresh initialisations where we draw them, else the model's own weights.

        Args:
            after: seeds to leave out first.
        """
        seeds = [(self._s.seed + index) % 2**63 for index in range(after, after + count)]
        return [Start(seed, partial(self._weights, seed)) for seed in seeds]

    def _weights(self, seed: int) -> Weights:
        if self._s.rebuild is None:
            return self._own
        drawn = self._drawn.get(seed)
        if drawn is None:
            drawn = self._weights_of(self._s.rebuild(seed))
            if self._kept_bytes + drawn.size_bytes <= KEPT_BYTES:
                self._drawn[seed] = drawn
                self._kept_bytes += drawn.size_bytes
        return drawn

    @contextmanager
    def loaded(self, start: Start) -> Iterator[None]:
        """Load a start's weights into the model, for the block."""
        self._load(start.weights())
        yield

    def initial_loss(self, start: Start) -> float:
        """Compute the loss over all samples before the first step."""
        self._load(start.weights())
        with torch.no_grad(), seeded(start.seed, self._s.device):
            return float(self._s.loss_between(run_model(self._s, self.data.inputs), self.data.target))

    def train(self, run: Run, steps: int, in_time: Callable[[], bool] = lambda: True) -> None:
        """Continue a run for `steps` steps; stop early if it diverges, or `in_time`, called before each, is False."""
        until = len(run.losses) + steps
        state = self._resume(run)
        order = self._order(run.start.seed, until)
        while len(run.losses) < until and run.ended is None and in_time():
            at = len(run.losses)
            block = min(BLOCK - at % BLOCK, until - at)
            with seeded((run.start.seed + 1_000_003 * (at // BLOCK)) % 2**63, self._s.device):
                self._block(run, state, order, range(at, at + block), in_time)
        self._live = (run, state)

    def keep(self, run: Run) -> None:
        """Save the state that a run has reached, so that it can be continued after others; within `KEPT_BYTES`."""
        self._forget(run)
        if run.ended is not None or self._live is None or self._live[0] is not run:
            return
        state = self._live[1]
        size = _size_bytes([*self._parameters, *self._buffers, *state.first, *state.second])
        if self._kept_bytes + size <= KEPT_BYTES:
            run.reached = _Reached(self._present(), state.copy())
            self._kept_bytes += size

    def drop(self, run: Run) -> None:
        """End a run and free its state."""
        run.ended = run.ended or "dropped"
        self._forget(run)

    def _block(
        self,
        run: Run,
        state: UpdateState,
        order: list[torch.Tensor] | None,
        steps: range,
        in_time: Callable[[], bool],
    ) -> None:
        losses: list[torch.Tensor] = []
        for step in steps:
            if losses and not in_time():
                break
            inputs, target = self.data.pick(order[step] if order is not None else None)
            loss = self._s.loss_between(run_model(self._s, inputs), target)
            losses.append(loss.detach())
            self._trained.step(loss, run.update, run.rates, state)
        self.steps_run += len(losses)
        for value in torch.stack(losses).double().tolist():
            first = run.losses[0] if run.losses else value
            run.losses.append(value)
            if not math.isfinite(value) or abs(value) > DIVERGED * max(abs(first), 1e-12):
                run.ended = "diverged"
                break

    def _order(self, seed: int, until: int) -> list[torch.Tensor] | None:
        key = (seed, until)
        if key not in self._orders:
            self._orders[key] = self.data.minibatches(seed, until)
        return self._orders[key]

    def _resume(self, run: Run) -> UpdateState:
        if self._live is not None and self._live[0] is run:
            return self._live[1]
        reached = run.reached
        if reached is not None:
            self._load(reached.weights)
            return reached.update.copy()
        run.losses.clear()  # its weights have been freed: train again from the start
        self._load(run.start.weights())
        return UpdateState()

    def _forget(self, run: Run) -> None:
        if run.reached is not None:
            self._kept_bytes -= run.reached.size_bytes
            run.reached = None

    def _present(self) -> Weights:
        return Weights(_cloned(self._parameters), _cloned(self._buffers))

    def _load(self, weights: Weights) -> None:
        self._live = None
        with torch.no_grad():
            torch._foreach_copy_(self._parameters, weights.parameters)
            for buffer, value in zip(self._buffers, weights.buffers, strict=True):
                buffer.copy_(value)

    def _weights_of(self, model: nn.Module) -> Weights:
        values = {name: entry.tensor for entry in ParameterIndex(model) for name in entry.names}
        names = [self._s.parameters.of_object(parameter) for parameter in self._parameters]
        return Weights(_cloned([values[e.name] for e in names if e is not None]), _cloned(list(model.buffers())))


def _cloned(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _size_bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
