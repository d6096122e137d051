"""Which optimizers and rates a trial tries, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradinspect.contracts.optimizers import Adam, AdamW, Optimizer, Sgd
from gradinspect.contracts.report.trial import TrialArm
from gradinspect.probes.trial.arm import ArmResult

AROUND_DECLARED = (10.0, 0.1, 100.0, 0.01)  # times the declared rate; larger ones answer sooner
SGD_RATES = (0.01, 0.1, 0.001)  # with momentum 0.9; in the study one of the three trained every healthy network
ADAM_RATES = (1e-3, 1e-2, 1e-4)
MOMENTUM = 0.9
USUAL_HEIGHTS = (0.05, 20.0)  # of chance above the floor; outside, rates for a loss of unit size do not fit


def is_same_family(first: Optimizer, second: Optimizer) -> bool:
    """Check that two optimizers differ in nothing but their rate and decay."""
    return first.type == second.type and first.memory == second.memory


def declared_family(declared: Optimizer) -> Iterator[Optimizer]:
    """Yield the declared optimizer, then the same at other rates."""
    yield declared
    for factor in AROUND_DECLARED:
        yield declared.model_copy(update={"lr": float(f"{declared.lr * factor:.6g}")})


def usual_families(declared: Optimizer | None, height: float) -> tuple[Iterator[Optimizer], ...]:
    """Return SGD and Adam, each at three usual rates; the declared one keeps its own momentum and decay.

    Args:
        declared: the request's optimizer; None for SGD with momentum 0.9 and Adam as torch has it.
        height: of chance above the floor.
    """
    sgd = declared if isinstance(declared, Sgd) else Sgd(type="sgd", momentum=MOMENTUM)
    adam = declared if isinstance(declared, Adam | AdamW) else Adam(type="adam", eps=_eps(height))
    return _sgd_family(sgd, height), (adam.model_copy(update={"lr": rate}) for rate in ADAM_RATES)


def is_pointless(optimizer: Optimizer, tried: Sequence[tuple[Optimizer, ArmResult]]) -> bool:
    """Check that runs at other rates answer for this one: a smaller one diverged, or a larger one moved nothing."""
    for other, result in tried:
        if optimizer == other:
            return True
        if is_same_family(optimizer, other) and (
            (result.outcome == "diverges" and optimizer.lr > other.lr)
            or (result.has_stayed and optimizer.lr < other.lr)
        ):
            return True
    return False


def steps_at(declared: TrialArm, arms: Sequence[TrialArm]) -> float | None:
    """Return the steps that a declared rate needs for the way on which a larger rate was seen to learn.

    To first order the way is the rate times the steps.

    Args:
        declared: the run at the declared rate.
        arms: the runs of the same optimizer at other rates.

    Returns:
        None where the declared run diverged, or no larger rate learned.
    """
    if declared.outcome == "diverges":
        return None
    faster = [arm for arm in arms if arm.outcome == "learns" and arm.lr > declared.lr]
    return min((arm.steps * arm.lr / declared.lr for arm in faster), default=None)


def _sgd_family(sgd: Sgd, height: float) -> Iterator[Optimizer]:
    """Yield SGD at each rate, first in the unit of the loss.

    A loss that is c times as large trains identically at a rate that is 1/c as large; without momentum the rate is as
    much larger as a steady gradient then moves less.
    """
    rates = [rate * (1 - sgd.momentum) / (1 - MOMENTUM) for rate in SGD_RATES]
    if not USUAL_HEIGHTS[0] <= height <= USUAL_HEIGHTS[1]:
        yield from (sgd.model_copy(update={"lr": float(f"{rate / height:.3g}")}) for rate in rates)
    yield from (sgd.model_copy(update={"lr": float(f"{rate:.3g}")}) for rate in rates)


def _eps(height: float) -> float:
    """Return Adam's ε, which is in the unit of the gradients, for a loss that is far from unit size.

    Torch's own would stop small gradients of one loss and let those of the same loss in another unit pass.
    """
    return 1e-8 if USUAL_HEIGHTS[0] <= height <= USUAL_HEIGHTS[1] else 1e-8 * height
