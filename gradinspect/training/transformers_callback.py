"""A callback of the trainer of transformers that watches the training of its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradinspect.contracts.request.policy import Policy
from gradinspect.rules import find_policy
from gradinspect.training.watch import RunStopped, StopOn, Watch, open_recorders

if TYPE_CHECKING:
    from torch import nn


def transformers_callback(
    *,
    every: int = 100,
    push: str | None = None,
    key: str | None = None,
    file: str | Path | None = None,
    name: str | None = None,
    labels: dict[str, str] | None = None,
    policy: str | dict[str, Any] | Policy = "default",  # Any: JSON of a policy; the trainer's objects below
    stop_on: StopOn = None,
    loss_scale: Callable[[], float] = lambda: 1.0,
) -> Any:
    """Make a callback of transformers: `Trainer(…, callbacks=[transformers_callback(every=100, push=url)])`.

    `gradient_accumulation_steps` is the trainer's. A finding of `stop_on` sets `control.should_training_stop`;
    `callback.stopped` then has the step and the finding.

    Args:
        every, push, key, file, name, labels, policy, stop_on: as in `watch`.
        loss_scale: returns the scale of mixed precision in float16, `trainer.accelerator.scaler.get_scale`; callbacks
            cannot read it.

    Raises:
        ImportError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ModuleNotFoundError as error:
        raise ImportError(
            "transformers_callback needs transformers: pip install 'gradinspect[transformers]'"
        ) from error

    class WatchCallback(TrainerCallback):  # type: ignore[misc]  # it is not installed where types are checked
        """Begins and ends the watch with the training, and stops the trainer where a finding is to."""

        def __init__(self) -> None:
            self.watch: Watch | None = None

        @property
        def stopped(self) -> RunStopped | None:
            """Return the step and the finding that stopped the run; None where nothing did."""
            return self.watch.stopped if self.watch is not None else None

        def on_train_begin(self, args: Any, _state: Any, _control: Any, *, model: nn.Module, **_: Any) -> None:
            shown = name or type(model).__name__
            self.watch = Watch(
                model,
                every=every,
                policy=find_policy(policy),
                stop_on=stop_on,
                recorders=open_recorders(push, key, file, name=shown, every=every, labels=labels),
                loss_factor=lambda: loss_scale() / args.gradient_accumulation_steps,
                raises=False,
            )
            self.watch.begin()

        def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
            if self.stopped is not None:
                control.should_training_stop = True

        def on_train_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
            if self.watch is not None:
                self.watch.end()

    return WatchCallback()
