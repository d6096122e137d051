"""Watch a training run: every so many optimizer steps, one step is measured as it runs, judged, and recorded."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradinspect.contracts.document import from_python
from gradinspect.contracts.problems import InspectionError
from gradinspect.contracts.report.report import Finding, ModelReference
from gradinspect.contracts.request.policy import LEVELS, Policy, Severity
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.wire.pushes import MAX_RATES, TrainingStep
from gradinspect.contracts.wire.runs import RunEnd, RunRequest
from gradinspect.engine.first_order.observed_pass import ObservedPass, counted_steps
from gradinspect.engine.rows.layer_rows import finite
from gradinspect.inspection.observed import declared_optimizer, observed_measurements
from gradinspect.report.shown import Report
from gradinspect.rules import RULE_IDS, find_policy, judge
from gradinspect.training.recorders import FileRecorder, Recorder, ServiceRecorder

if TYPE_CHECKING:
    from torch import nn
    from torch.optim.optimizer import Optimizer

StopOn = Severity | Sequence[str] | None


class RunStopped(Exception):  # noqa: N818  # states what happened
    """A rule ended the training run.

    Args:
        step: at which the finding was made.
        finding: the first one that was to end the run.
    """

    def __init__(self, step: int, finding: Finding) -> None:
        super().__init__(f"stopped at step {step} by {finding.rule}: {finding.message}")
        self.step, self.finding = step, finding


class Watch:
    """A watched training run. Make it with `watch`, `lightning_callback` or `transformers_callback`.

    Args:
        model: what is trained; its parameters identify the optimizer.
        every: optimizer steps from one watched step to the next; the first step is watched.
        policy: judges each report.
        stop_on: as in `watch`.
        recorders: take each report.
        loss_factor: as in `ObservedPass`.
        raises: whether a finding of `stop_on` raises `RunStopped` in the loop, or is left to the caller to read.

    Attributes:
        step: optimizer steps so far.
        report: of the last watched step; None before.
        stopped: what `stop_on` found; None while it has found nothing.
        watched_seconds: that judging and recording took, in all.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int,
        policy: Policy,
        stop_on: StopOn,
        recorders: Sequence[Recorder],
        loss_factor: Callable[[], float],
        raises: bool,
    ) -> None:
        self.step = 0
        self.report: Report | None = None
        self.stopped: RunStopped | None = None
        self.watched_seconds = 0.0
        self._model, self._every, self._policy = model, every, policy
        self._stop_on = _rules_or_severity(stop_on)
        self._recorders, self._loss_factor, self._raises = recorders, loss_factor, raises
        self._optimizer: Optimizer | None = None
        self._observed: ObservedPass | None = None
        self._open = ExitStack()

    def begin(self) -> None:
        """Begin to count steps, and observe the first one."""
        self._open.enter_context(counted_steps(list(self._model.parameters()), self._after_step))
        self._observe()

    def end(self, error: BaseException | None = None) -> None:
        """Remove every hook, and end the recorders.

        Args:
            error: what ended the run early; None at its regular end.
        """
        self._open.close()
        if self._observed is not None:
            self._observed.detach()
            self._observed = None
        how = self._how_it_ended(error)
        for recorder in self._recorders:
            recorder.end(how)

    def _how_it_ended(self, error: BaseException | None) -> RunEnd:
        if self.stopped is not None:
            finding = self.stopped.finding
            return RunEnd(outcome="stopped", step=self.stopped.step, rule=finding.rule, detail=finding.message)
        if error is not None:
            return RunEnd(outcome="failed", step=self.step, detail=f"{type(error).__name__}: {error}"[:4096])
        return RunEnd(outcome="completed", step=self.step)

    def _observe(self) -> None:
        observed = ObservedPass(self._model, loss_factor=self._loss_factor, on_end=self._take)
        observed.attach()
        self._observed = observed

    def _after_step(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        if self._observed is not None:
            self._observed.finish()
        self.step += 1
        if self.step % self._every == 0 and self.stopped is None:
            if self._observed is not None:
                self._observed.detach()
            self._observe()
        self._raise_if_stopped()

    def _take(self, observed: ObservedPass) -> None:
        """Judge and record a step that ended."""
        self._observed = None
        started = time.perf_counter()
        try:
            self._record(observed)
        except InspectionError as error:
            warnings.warn(f"step {self.step} was not measured: {error.detail}", stacklevel=2)
        self.watched_seconds += time.perf_counter() - started
        if observed.applied_grad_norm is None:  # no step of the optimizer may follow
            self._raise_if_stopped()

    def _record(self, observed: ObservedPass) -> None:
        declared = declared_optimizer(self._optimizer) if self._optimizer is not None else None
        settings = InspectionSettings(optimizer=declared)
        reference = ModelReference(name=type(self._model).__name__[:256], kind="module")
        judged = judge(
            observed_measurements(observed, settings), policy=self._policy, model=reference, inspection=None,
            settings=settings,
        )  # fmt: skip
        self.report = report = Report.of(judged, settings=settings)
        training = TrainingStep(
            learning_rates=observed.learning_rates[:MAX_RATES],
            applied_grad_norm=finite(observed.applied_grad_norm),
            loss_scale=observed.loss_factor,
            micro_batches=max(observed.micro_batches, 1),
        )
        for recorder in self._recorders:
            recorder.take(judged, settings=settings, step=self.step, training=training)
        finding = next((each for each in report.findings if self._stops(each)), None)
        if finding is not None and self.stopped is None:
            self.stopped = RunStopped(self.step, finding)

    def _stops(self, finding: Finding) -> bool:
        return finding.rule in self._stop_on or finding.severity in self._stop_on

    def _raise_if_stopped(self) -> None:
        if self.stopped is not None and self._raises:
            raise self.stopped


@contextmanager
def watch(
    model: nn.Module,
    *,
    every: int = 100,
    push: str | None = None,
    key: str | None = None,
    file: str | Path | None = None,
    name: str | None = None,
    labels: dict[str, str] | None = None,
    policy: str | dict[str, Any] | Policy = "default",  # Any: JSON of a policy
    stop_on: StopOn = None,
    loss_factor: Callable[[], float] = lambda: 1.0,
) -> Iterator[Watch]:
    """Watch the training of a model inside the `with` block; the loop stays as it is.

        with watch(model, every=100, push="http://127.0.0.1:8080") as run:
            for x, y in batches:
                optimizer.zero_grad()
                criterion(model(x), y).backward()
                optimizer.step()

    A watched step is the caller's own: its batch, its loss, its gradients after scaling and clipping, and the step that
    the optimizer made with the state it has. Steps in between run without any hook but one that counts them.

    Args:
        model: what is trained.
        every: optimizer steps from one watched step to the next; the first step is watched.
        push: address of a service, where the run gets a page.
        key: an API key of the service.
        file: JSON lines, one push for each watched step, as `POST /v1/reports` takes them.
        name: of the run and the model; by default the model's class.
        labels: of the run and its reports.
        policy: "default", a policy document, or its dict.
        stop_on: end the block at the first finding of this severity or above, or of one of these rules. The block then
            ends as if the loop had, and `stopped` of the run has the step and the finding.
        loss_factor: returns by how much the tensor whose `backward` is called exceeds the mean loss:
            `scaler.get_scale` with a GradScaler; 1/n where the loss is divided among n micro-batches.

    Raises:
        ValueError: `every` or `stop_on` is wrong.
        gradinspect.client.GradinspectError: the service does not answer when the run begins. A failure later is warned
            of, and training goes on.

    Cost: a watched step takes as long as an inspection's pass, with a copy of the parameters in memory while the
        optimizer steps; recording is done in another thread. `benchmarks/training` measures both.
    """
    shown = name or type(model).__name__
    recorders = open_recorders(push, key, file, name=shown, every=every, labels=labels)
    run = Watch(
        model, every=every, policy=find_policy(policy), stop_on=stop_on, recorders=recorders, loss_factor=loss_factor,
        raises=True,
    )  # fmt: skip
    run.begin()
    try:
        yield run
    except RunStopped as stop:
        run.end()
        if stop is not run.stopped:
            raise
    except BaseException as error:
        run.end(error)
        raise
    else:
        run.end()


def open_recorders(
    push: str | None,
    key: str | None,
    file: str | Path | None,
    *,
    name: str,
    every: int,
    labels: dict[str, str] | None,
) -> list[Recorder]:
    """Open what takes the reports of a run; arguments as in `watch`."""
    if every < 1:
        raise ValueError(f"every is {every}; it counts optimizer steps, so it is 1 or more")
    about = from_python(RunRequest, {"name": name[:256], "every": every, "labels": labels or {}})
    recorders: list[Recorder] = []
    if file is not None:
        recorders.append(FileRecorder(Path(file), about))
    if push is not None:
        recorders.append(ServiceRecorder(push, about, key=key))
    return recorders


def _rules_or_severity(stop_on: StopOn) -> frozenset[str]:
    """Return the severities and rules that end a run."""
    if stop_on is None:
        return frozenset()
    if isinstance(stop_on, str):
        if stop_on not in LEVELS:
            raise ValueError(f"stop_on is {stop_on!r}; give a severity (info, warn, fail) or a list of rules")
        return frozenset(LEVELS[LEVELS.index(stop_on) :])
    unknown = [rule for rule in stop_on if rule not in RULE_IDS]
    if unknown:
        raise ValueError(f"stop_on names {unknown[0]!r}; the rules are {', '.join(RULE_IDS)}")
    return frozenset(stop_on)
