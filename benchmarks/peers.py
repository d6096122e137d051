"""What other tools do for the first-order numbers, each as its documentation shows it; measured where installed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

from models import Subject

Run = Callable[[Subject], None]


def tensorboard(_subject: Subject) -> Run:
    """`SummaryWriter.add_histogram` for every weight and gradient."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(tempfile.mkdtemp())

    def run(measured: Subject) -> None:
        measured.bare()
        for name, parameter in measured.model.named_parameters():
            writer.add_histogram(name, parameter, 0)
            if parameter.grad is not None:
                writer.add_histogram(f"{name}.grad", parameter.grad, 0)

    return run


def wandb_watch(subject: Subject) -> Run:
    """`wandb.watch(log="all")`, offline, logging at every step."""
    import wandb

    run_of_wandb = wandb.init(mode="offline", dir=tempfile.mkdtemp())
    run_of_wandb.watch(subject.model, log="all", log_freq=1)

    def run(measured: Subject) -> None:
        measured.bare()
        run_of_wandb.log({})

    return run


def backpack_batch_l2(subject: Subject) -> Run:
    """BackPACK's `BatchL2Grad`, its cheapest extension."""
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    model = extend(subject.model)

    def run(measured: Subject) -> None:
        model.zero_grad(set_to_none=True)
        with backpack(BatchL2Grad()):
            measured.loss(model(measured.inputs)).backward()

    return run


# label: package, and what makes a run
PEERS: dict[str, tuple[str, Callable[[Subject], Run]]] = {
    "TensorBoard add_histogram": ("tensorboard", tensorboard),
    "wandb.watch": ("wandb", wandb_watch),
    "BackPACK BatchL2Grad": ("backpack", backpack_batch_l2),
}
