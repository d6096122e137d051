"""The learning trial and the prescription: what short training runs of the model showed, and what to change.

A trial trains the model on the inspected batch with several optimizers and rates (`arms`). A prescription is
one list of changes, tried together; its source code is made from `changes` by `contracts.report.prescription_code`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gradinspect.contracts.document import Count, Document, Finite, Name, Text
from gradinspect.contracts.optimizers import Optimizer
from gradinspect.contracts.report.rows import Names, Number
from gradinspect.contracts.report.section import Code, Losses, Section

SWITCHED_OFF = "disabled: the request says trial: off"

ArmOutcome = Literal["learns", "slow", "does_not_learn", "diverges", "undetermined"]
TrialVerdict = Literal["learns", "slow", "does_not_learn", "diverges", "other_rate", "other_optimizer", "undetermined"]
PrescriptionOutcome = Literal["not_needed", "found", "not_found", "not_tried"]


CheckName = Literal[
    "forward", "loss_finite", "backward", "second_backward", "step_finite", "weights_moved", "loss_falls"
]


class TrialCheck(Document):
    """One plain observation of the trial's first run."""

    name: CheckName
    passed: bool
    detail: Text = ""


class TrialArm(Document):
    """One training run: an optimizer at one rate, always from the same weights on the same batch."""

    optimizer: Name = Field(description="sgd, adam or adamw.")
    momentum: Number = None
    lr: Finite
    declared: bool = Field(default=False, description="The request's optimizer at the request's rate.")
    outcome: ArmOutcome = Field(description="`undetermined`: it was stopped while its loss still fell.")
    skill: Number = Field(
        default=None,
        description="(chance − loss) / (chance − floor), of the last steps' smoothed loss; without a known floor "
        "(chance − loss) / |chance|, and the first loss in place of an unknown chance. 1 is perfect, 0 is chance.",
    )
    steps: Count = 0
    curve: Losses = ()


class Trial(Section):
    """Training runs of the model on the inspected batch: the evidence that it learns, or does not."""

    verdict: TrialVerdict = Field(
        default="undetermined",
        description="`other_rate`: it learns, but not at the declared rate. `other_optimizer`: not with the declared "
        "optimizer, or where none is declared with one of SGD and Adam, at any tried rate.",
    )
    chance_loss: Number = Field(default=None, description="The loss of the best constant output.")
    floor_loss: Number = Field(default=None, description="The smallest loss that exists for these targets, if known.")
    initial_loss: Number = None
    steps_at_declared_rate: Number = Field(
        default=None,
        description="Where a larger rate learned: the steps that the declared one needs for as long a way.",
    )
    arms: Annotated[tuple[TrialArm, ...], Field(max_length=64)] = ()
    unmoved_layers: Names = Field(
        default=(), description="Layers that moved less than a thousandth as far as the median layer."
    )
    checks: Annotated[tuple[TrialCheck, ...], Field(max_length=16)] = ()
    steps_run: Count = 0
    max_steps: Count = 0


class Change(Document):
    """One change of the model, its optimizer or its data."""

    rule: Name | None = Field(default=None, description="The finding that the change answers.")
    action: Name
    arguments: dict[str, Any] = {}  # Any: each action has its own arguments, checked where code is made from them
    text: Text = Field(default="", description="The change in one sentence.")


class Prescription(Document):
    """The changes with which the model was seen to learn, as one block of code with the curve it produced."""

    outcome: PrescriptionOutcome
    reason: Text | None = None
    changes: Annotated[tuple[Change, ...], Field(max_length=16)] = ()
    optimizer: Optimizer | None = Field(default=None, description="As in `code`.")
    code: Code | None = Field(
        default=None,
        description="Python that changes `model`, makes `optimizer` and, where the data must change, defines "
        "`prepare(inputs, targets)` for every batch.",
    )
    skill_before: Number = None
    skill_after: Number = None
    curve_before: Losses = ()
    curve: Losses = ()
    seeds: Count = Field(default=0, description="Seeds with which the code was run and the model learned.")
    tried: Count = Field(default=0, description="Plans that were tried.")
