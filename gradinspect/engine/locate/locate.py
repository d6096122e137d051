"""The second pass over a model that is not healthy: find the operations at which it breaks."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.graph import Node

from gradinspect.contracts.report.operations import MAX_FAULTS, Fault, Operation, Trap
from gradinspect.contracts.report.setup import OutputHead
from gradinspect.engine.locate.backward_flow import BackwardFlow, NodeFlow, run_backward
from gradinspect.engine.locate.records import Record, describe
from gradinspect.engine.locate.source_lines import script_module, script_traceback
from gradinspect.engine.locate.traps import OVER_AN_AXIS, backward_trap, forward_trap, zero_trap
from gradinspect.engine.locate.watch import LeavingCalls, OperationWatch, Provenance
from gradinspect.engine.network.loss_head import read_heads
from gradinspect.engine.network.outputs import ModelOutput
from gradinspect.engine.network.parameters import ParameterEntry, ParameterIndex

COST_IN_PASSES = 20.0  # chosen: every operation reads its inputs and outputs; 5-15 bare passes were seen
_MOST_NAMES = 64
ONE_ELEMENT = ("softmax_of_one", "norm_of_one")
_MOST_SCRIPT_RUNS = 4


@dataclass(frozen=True, kw_only=True)
class UnhealthyPass:
    """What the second pass runs.

    Attributes:
        model: in its mode; the caller restores it.
        parameters: of the model.
        inputs: its arguments.
        target: what the loss compares with, if anything.
        loss_of: from what the model returned to the scalar loss.
        prepared: entered around each run: the random state, so that every run draws the same.
        casting: entered while the model runs.
        loss_scale: multiplies the loss before the backward pass.
    """

    model: nn.Module
    parameters: ParameterIndex
    inputs: Sequence[Any]
    target: Any = None
    loss_of: Callable[[ModelOutput], torch.Tensor]
    prepared: Callable[[], AbstractContextManager[object]] = nullcontext
    casting: Callable[[], AbstractContextManager[object]] = nullcontext
    loss_scale: float = 1.0


def locate(subject: UnhealthyPass) -> tuple[Fault, ...]:
    """Run the model once more under a watch and name the operations at which it breaks.

    Returns:
        Faults in the order of the story: data, forward, loss, backward; within the backward pass non-finite gradients
        before cuts and zeros. None where nothing is found, or where the model raises.

    Cost: 5-15 bare passes. For TorchScript up to four more forward passes, for the source lines.
    """
    faults = list(_bad_data(subject))
    if faults:
        return tuple(faults)
    with _python_randomness_restored():
        run = _Run.run(subject)
        findings = list(_findings(run))[:MAX_FAULTS]
        return tuple(_with_script_source(run, findings))


def locate_heads(subject: UnhealthyPass, heads: Sequence[OutputHead]) -> tuple[OutputHead, ...]:
    """Run the model once more under a watch and name the operation right before each function of the loss.

    Args:
        subject: the pass.
        heads: as read in the first pass.

    Cost: one watched forward pass. For TorchScript up to four more, for the source lines.
    """
    nodes: list[Node | None] = []

    def loss_of(output: ModelOutput) -> torch.Tensor:
        loss = subject.loss_of(output)
        nodes.extend(node for _, node in read_heads(output, subject.target, loss))
        return loss

    with _python_randomness_restored():
        run = _Run.forwards(replace(subject, loss_of=loss_of))
        if len(nodes) != len(heads):
            return tuple(heads)
        records = [run.record_of(node) if node is not None else None for node in nodes]
        found = [
            _Finding("zero", record.stage, record, "output_activation") for record in records if record is not None
        ]
        faults = iter(_with_script_source(run, found))
        return tuple(
            head if record is None else head.model_copy(update={"operation": next(faults).operation})
            for head, record in zip(heads, records, strict=True)
        )


@dataclass(frozen=True)
class _Finding:
    """A fault before its source line in TorchScript is known."""

    kind: str
    stage: str
    record: Record
    trap: Trap
    parameters: tuple[str, ...] = ()

    def fault(self) -> Fault:
        record = self.record
        name = "no_grad" if self.trap == "no_grad" else record.public_name
        operation = Operation(
            name=_bounded(name), module=_optional(record.module), source=record.source, inputs=record.inputs,
            axis_size=record.axis_size, reason=self.trap,
        )  # fmt: skip
        return Fault.model_validate(
            {"kind": self.kind, "stage": self.stage, "operation": operation, "parameters": self.parameters}
        )


@dataclass
class _Run:
    """The watched pass: its operations, its loss, and its backward pass where there was one."""

    subject: UnhealthyPass
    watch: OperationWatch
    loss: torch.Tensor
    loss_source: Provenance
    flow: BackwardFlow | None

    @classmethod
    def forwards(cls, subject: UnhealthyPass) -> _Run:
        """Run forwards under a watch."""
        names = {id(module): path for path, module in subject.model.named_modules() if path}
        watch = OperationWatch(subject.parameters, names, run_watched.__code__)
        loss = run_watched(subject, watch)
        return cls(subject, watch, loss, watch.used(loss), None)

    @classmethod
    def run(cls, subject: UnhealthyPass) -> _Run:
        """Run forwards under a watch, and backwards with a hook on each node where the loss is finite."""
        run = cls.forwards(subject)
        loss = run.loss
        if loss.grad_fn is not None and bool(torch.isfinite(loss.detach()).all()):
            scaled = loss * subject.loss_scale if subject.loss_scale != 1.0 else loss
            run.flow = run_backward(scaled, subject.parameters)
        return run

    def record_of(self, node: Node) -> Record | None:
        """Return the operation that made an autograd node."""
        firsts = self._first_of_sequence
        index = bisect_right(firsts, node._sequence_nr(), key=lambda entry: entry[0]) - 1
        return firsts[index][1] if index >= 0 else None

    @cached_property
    def _first_of_sequence(self) -> list[tuple[int, Record]]:
        first: dict[int, Record] = {}
        for record in self.watch.records:
            if record.sequence is not None:
                first.setdefault(record.sequence, record)
        return sorted(first.items())


def run_watched(subject: UnhealthyPass, watch: OperationWatch) -> torch.Tensor:
    """Run the model and its loss under a watch; return the loss."""
    is_scripted = isinstance(subject.model, torch.jit.ScriptModule)
    with ExitStack() as stack:
        stack.enter_context(subject.prepared())
        stack.enter_context(torch.enable_grad())
        stack.enter_context(nullcontext() if is_scripted else LeavingCalls(watch))
        with subject.casting(), watch:
            output = subject.model(*subject.inputs)
        with watch:
            watch.stage = "loss"
            return subject.loss_of(output)


def _bad_data(subject: UnhealthyPass) -> Iterator[Fault]:
    named = [*((f"input {index}", value) for index, value in enumerate(subject.inputs)), ("target", subject.target)]
    for name, value in named:
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            operation = Operation(name=name, inputs=(describe(value),), reason="non_finite_data")
            yield Fault(kind="non_finite", stage="data", operation=operation)


def _findings(run: _Run) -> Iterator[_Finding]:
    records = run.watch.records
    if run.flow is None and run.loss_source.broken_by:
        record = records[min(run.loss_source.broken_by)]
        yield _Finding("non_finite", record.stage, record, forward_trap(record, makes_nan=record.makes_nan))
        return
    if run.flow is not None:
        broken = run.flow.first_broken()
        if broken is not None:
            yield from _broken_backward(run, *broken)
            return
    hidden = next((record for record in records if record.breaks), None)
    if hidden is not None and not _is_swallowed(run):
        yield _Finding("non_finite", hidden.stage, hidden, forward_trap(hidden, makes_nan=hidden.makes_nan))
        return
    yield from _cuts(run)
    if run.flow is not None:
        yield from _zeros(run, run.flow)


def _is_swallowed(run: _Run) -> bool:
    """Check whether no parameter suffers from a non-finite value inside the model: it never reaches the loss."""
    return run.flow is not None


def _broken_backward(run: _Run, node: Node, flow: NodeFlow) -> Iterator[_Finding]:
    record = run.record_of(node)
    if record is None:
        return
    assert run.flow is not None
    names = tuple(entry.name for entry, size in run.flow.gradients.items() if not math.isfinite(size))[:_MOST_NAMES]
    if record.inherits:
        # A product with values that were never finite: the forward pass is where it begins.
        first = run.watch.records[min(record.inherits)]
        yield _Finding("non_finite", first.stage, first, forward_trap(first, makes_nan=first.makes_nan), names)
        return
    trap = backward_trap(record, is_untaken=flow.only_untaken, broke_forward=record.breaks)
    yield _Finding("non_finite", "backward", record, trap, names)


def _cuts(run: _Run) -> Iterator[_Finding]:
    """Name the operations that cut parameters from the loss although their values reach it."""
    entries = list(run.subject.parameters)
    with_gradient = run.flow.gradients if run.flow is not None else {}
    missing = {
        1 << index: entry for index, entry in enumerate(entries) if entry.requires_grad and entry not in with_gradient
    }
    by_cut: dict[tuple[int, Trap], list[str]] = {}
    for bit, entry in missing.items():
        cuts = [(index, trap) for index, trap, parameters in run.loss_source.cut_by if parameters & bit]
        exits: list[tuple[int, Trap]] = [
            (index, "left_graph") for index, parameters in run.watch.exits if parameters & bit
        ]
        chosen = max(cuts or exits, default=None, key=lambda cut: cut[0])
        if chosen is not None:
            by_cut.setdefault(chosen, []).append(entry.name)
    for (index, trap), names in sorted(by_cut.items()):
        yield _Finding("cut", "backward", run.watch.records[index], trap, tuple(names[:_MOST_NAMES]))


def _zeros(run: _Run, flow: BackwardFlow) -> Iterator[_Finding]:
    """Name the operations nearest the loss behind which parameters get a gradient of exactly zero."""
    accumulators = _accumulators(flow, run.subject.parameters)
    origins = flow.zero_origins()
    groups: dict[tuple[int, Trap], list[str]] = {}
    for entry, size in flow.gradients.items():
        node = accumulators.get(entry)
        if size != 0 or node is None:
            continue
        origin = origins.get(node)
        record = run.record_of(origin[0]) if origin is not None else None
        if origin is not None and record is not None:
            cutting, index = origin
            is_own = cutting.next_functions[index][0] is node
            trap: Trap = zero_trap(record, entered=flow.flows[cutting].entered, edge=index, is_parameter=is_own)
            groups.setdefault((record.index, trap), []).append(entry.name)
        else:
            user = _user_of(run, flow, node)
            if user is not None:
                groups.setdefault((user.index, "cancelling_uses"), []).append(entry.name)
    named = {index for index, _ in groups}
    entries = list(run.subject.parameters)
    for record in run.watch.records:
        if record.axis_size == 1 and record.upstream and record.index not in named and record.name in OVER_AN_AXIS:
            above = [entry.name for index, entry in enumerate(entries) if record.upstream >> index & 1]
            groups[record.index, zero_trap(record, entered=1.0, edge=0)] = above
    # A zero behind a constant operation follows from it.
    for (index, trap), names in sorted(groups.items(), key=lambda group: group[0][1] not in ONE_ELEMENT):
        yield _Finding("zero", "backward", run.watch.records[index], trap, tuple(names[:_MOST_NAMES]))


def _accumulators(flow: BackwardFlow, parameters: ParameterIndex) -> dict[ParameterEntry, Node]:
    nodes: dict[ParameterEntry, Node] = {}
    for node in flow.graph.order:
        variable = getattr(node, "variable", None)
        entry = parameters.of_object(variable) if isinstance(variable, torch.Tensor) else None
        if entry is not None:
            nodes.setdefault(entry, node)
    return nodes


def _user_of(run: _Run, flow: BackwardFlow, accumulator: Node) -> Record | None:
    for node in flow.graph.order:
        if any(child is accumulator for child in flow.graph.sources[node]):
            return run.record_of(node)
    return None


def _with_script_source(run: _Run, findings: Sequence[_Finding]) -> Iterator[Fault]:
    """Add the TorchScript line and module of each operation that ran inside a scripted module."""
    has_scripts = any(isinstance(module, torch.jit.ScriptModule) for module in run.subject.model.modules())
    for position, finding in enumerate(findings):
        record = finding.record
        if has_scripts and record.stage == "forward" and position < _MOST_SCRIPT_RUNS:
            traceback = script_traceback(_message_at(run.subject, record))
            source = traceback.source
            if source is None and record.name == "detach" and record.index + 1 < len(run.watch.records):
                # Reading `.data` has no line in TorchScript; the operation that takes it does.
                finding, record = replace(finding, trap="data"), replace(record, name="data")
                source = script_traceback(_message_at(run.subject, run.watch.records[record.index + 1])).source
            module = script_module(run.subject.model, traceback, run.watch.last_used[record.index])
            record = replace(record, source=source or record.source, module=module or record.module)
        yield replace(finding, record=record).fault()


class _StopError(Exception):
    """Ends a pass at one operation, so that the interpreter writes where it is."""


class _Stop(OperationWatch):
    """A watch that raises at one operation instead of running it."""

    stop_at: Record

    def _begin(self, name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> Record:
        record = super()._begin(name, args, keywords)
        if record.index == self.stop_at.index and record.name == self.stop_at.name:
            raise _StopError
        return record


def _message_at(subject: UnhealthyPass, record: Record) -> str:
    stop = _Stop(subject.parameters, {}, run_watched.__code__)
    stop.stop_at = record
    try:
        run_watched(subject, stop)
    except Exception as error:  # noqa: BLE001  # the interpreter's own error, or the model's
        return str(error)
    return ""


@contextmanager
def _python_randomness_restored() -> Iterator[None]:
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def _bounded(text: str) -> str:
    return text[:256] or "unknown"


def _optional(text: str | None) -> str | None:
    return text[:256] if text else None
