"""A remedy that is probed like learning-rate scales: the way it trains, and what its code needs to train so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradinspect.contracts.optimizers import ASSUMED, Optimizer
from gradinspect.contracts.report.sections import WeightGain
from gradinspect.engine.first_order.context import SectionInput
from gradinspect.engine.network.parameters import ParameterEntry
from gradinspect.probes.scales.measurement import GroupMeasurement
from gradinspect.probes.verify.search import Arm
from gradinspect.probes.verify.training import Start, Trainer


@dataclass(frozen=True, eq=False)
class ProbedRemedy:
    """One remedy for one model.

    Attributes:
        arm: how it trains.
        gains: the weights that it rescales; `contracts.report.scale_code` writes its source.
    """

    arm: Arm
    gains: tuple[WeightGain, ...] = ()


@dataclass(frozen=True, eq=False)
class RemedyInput:
    """The experiment from which a remedy is made.

    Attributes:
        starts: one per seed; remedies start where the scales' arms did.
        measured: the groups of parameters, in the order of the trainer's parameters.
    """

    s: SectionInput
    trainer: Trainer
    starts: Sequence[Start]
    measured: Sequence[GroupMeasurement]

    @property
    def optimizer(self) -> Optimizer:
        """Return the declared optimizer, or the assumed one."""
        return self.s.settings.optimizer or ASSUMED

    @property
    def entries(self) -> list[ParameterEntry]:
        """Return the trained parameters, in the trainer's order."""
        return [entry for m in self.measured for entry in m.group.entries]
