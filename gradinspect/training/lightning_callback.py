"""A callback of PyTorch Lightning that watches the training of its module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradinspect.contracts.request.policy import Policy
from gradinspect.rules import find_policy
from gradinspect.training.watch import RunStopped, StopOn, Watch, open_recorders

if TYPE_CHECKING:
    from torch import nn


def lightning_callback(
    *,
    every: int = 100,
    push: str | None = None,
    key: str | None = None,
    file: str | Path | None = None,
    name: str | None = None,
    labels: dict[str, str] | None = None,
    policy: str | dict[str, Any] | Policy = "default",  # Any: JSON of a policy; the trainer's objects below
    stop_on: StopOn = None,
) -> Any:
    """Make a Lightning callback: `Trainer(callbacks=[lightning_callback(every=100, push=url)])`.

    The scale of mixed precision and `accumulate_grad_batches` are the trainer's. A finding of `stop_on` sets
    `trainer.should_stop`; `callback.stopped` then has the step and the finding.

    Args:
        every, push, key, file, name, labels, policy, stop_on: as in `watch`.

    Raises:
        ImportError: Lightning is not installed.
    """
    try:
        from lightning.pytorch.callbacks import Callback
    except ModuleNotFoundError:
        try:
            from pytorch_lightning.callbacks import Callback
        except ModuleNotFoundError as error:
            raise ImportError("lightning_callback needs Lightning: pip install 'gradinspect[lightning]'") from error

    class WatchCallback(Callback):  # type: ignore[misc]  # Lightning is not installed where types are checked
        """Begins and ends the watch with the training, and stops the trainer where a finding is to."""

        def __init__(self) -> None:
            super().__init__()
            self.watch: Watch | None = None

        @property
        def stopped(self) -> RunStopped | None:
            """Return the step and the finding that stopped the run; None where nothing did."""
            return self.watch.stopped if self.watch is not None else None

        def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
            shown = name or type(pl_module).__name__
            self.watch = Watch(
                pl_module,
                every=every,
                policy=find_policy(policy),
                stop_on=stop_on,
                recorders=open_recorders(push, key, file, name=shown, every=every, labels=labels),
                loss_factor=_loss_factor(trainer),
                raises=False,
            )
            self.watch.begin()

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if self.stopped is not None:
                trainer.should_stop = True

        def on_train_end(self, *_: Any) -> None:
            if self.watch is not None:
                self.watch.end()

        def on_exception(self, _trainer: Any, _module: Any, exception: BaseException) -> None:
            if self.watch is not None:
                self.watch.end(exception)

    return WatchCallback()


def _loss_factor(trainer: Any) -> Callable[[], float]:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return lambda: (scaler.get_scale() if scaler is not None else 1.0) / trainer.accumulate_grad_batches
