"""A policy: which rules count, and at which numbers. What it leaves out keeps the rule's own default.

The numbers' defaults, with unit and source, live with the rules; here is only what a policy may say about each rule and
when it contradicts itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from gradinspect.contracts.document import Count, Document, Finite, Text, located, number_or_list

Compares = Literal["above", "reaches", "below", "outside", "present"]
Severity = Literal["info", "warn", "fail"]
FailOn = Literal["warn", "fail"]  # the mildest severity that an audit fails on
LEVELS: tuple[Severity, ...] = ("info", "warn", "fail")  # from mild to severe


class Yardstick(NamedTuple):
    """How a rule compares its value with a threshold, and the range in which thresholds make sense.

    `above`: value > t. `reaches`: value ≥ t. `below`: value < t. `outside`: value outside [low, high]. `present`: the
    rule has no number; it can only be switched off. `largest` bounds thresholds (1 for shares).
    """

    compares: Compares
    largest: float | None = None


COMPARISONS: dict[str, Yardstick] = {
    "non_finite": Yardstick("present"),
    "vanishing_signal": Yardstick("below"),
    "exploding_signal": Yardstick("above"),
    "uneven_gradients": Yardstick("above"),
    "poor_initialization": Yardstick("above"),
    "initialization_mismatch": Yardstick("outside"),
    "dead_units": Yardstick("above", largest=1.0),
    "correlation_collapse": Yardstick("above", largest=1.0),
    "saturated_activation": Yardstick("above", largest=1.0),
    "zero_gradient": Yardstick("reaches", largest=1.0),
    "unused_parameter": Yardstick("present"),
    "frozen_parameter": Yardstick("present"),
    "update_ratio": Yardstick("outside"),
    "low_precision_underflow": Yardstick("above", largest=1.0),
    "low_precision_overflow": Yardstick("above"),
    "sharpness": Yardstick("above"),
    "initial_loss": Yardstick("above"),
    "noise_dominated": Yardstick("above"),
    "normalization_growth": Yardstick("above"),
    "absolute_gradient_floor": Yardstick("below"),
}
RULE_IDS = tuple(COMPARISONS)

Bound = Annotated[Finite, Field(ge=0)]
Threshold = Annotated[
    Annotated[Bound, Tag("number")] | Annotated[tuple[Bound, Bound], Tag("list")], Discriminator(number_or_list)
]


class RulePolicy(Document):
    """What a policy says about one rule. A level left out keeps its default; `null` switches the level off."""

    enabled: bool = True
    info: Threshold | None = None
    warn: Threshold | None = None
    fail: Threshold | None = None


class Policy(Document):
    """A named, versioned set of changes to the rules' thresholds."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,62}$")]
    version: Annotated[Count, Field(ge=1)] = 1
    description: Text = ""
    rules: dict[str, RulePolicy] = Field(default={}, max_length=len(RULE_IDS))

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        for rule, said in self.rules.items():
            if rule not in COMPARISONS:
                raise _fault((rule,), f"unknown rule {rule!r}; known are {', '.join(RULE_IDS)}")
            given = {level: getattr(said, level) for level in LEVELS if level in said.model_fields_set}
            for level, threshold in given.items():
                problem = shape_problem(rule, threshold)
                if problem is not None:
                    raise _fault((rule, level), problem)
            problem_at = disorder(rule, given)
            if problem_at is not None:
                raise _fault((rule, problem_at[0]), problem_at[1])
        return self


def shape_problem(rule: str, threshold: Threshold | None) -> str | None:
    """Why `threshold` cannot belong to `rule`, or None."""
    compares, largest = COMPARISONS[rule]
    if threshold is None:
        return None
    if compares == "present":
        return f"{rule} has no threshold; it can only be enabled or not"
    if compares == "outside":
        if not isinstance(threshold, tuple):
            return f"{rule} takes a range [low, high]"
        if not threshold[0] < threshold[1]:
            return f"low must be smaller than high, got [{threshold[0]:g}, {threshold[1]:g}]"
        return None
    if isinstance(threshold, tuple):
        return f"{rule} takes one number, not a range"
    if largest is not None and threshold > largest:
        return f"{rule} takes a share between 0 and {largest:g}, got {threshold:g}"
    return None


def disorder(rule: str, thresholds: Mapping[Severity, Threshold | None]) -> tuple[Severity, str] | None:
    """The severer level that would fire before a milder one, and what is wrong; None when the order is right."""
    levels = [(level, value) for level in LEVELS if (value := thresholds.get(level)) is not None]
    for (mild, lower), (severe, upper) in pairwise(levels):
        if _is_milder(COMPARISONS[rule].compares, lower, upper):
            continue
        return severe, f"{severe} must not fire before {mild}: {severe} is {_shown(upper)}, {mild} is {_shown(lower)}"
    return None


def _is_milder(compares: Compares, mild: Threshold, severe: Threshold) -> bool:
    if isinstance(mild, tuple) and isinstance(severe, tuple):
        return severe[0] <= mild[0] and mild[1] <= severe[1]
    if isinstance(mild, tuple) or isinstance(severe, tuple):
        return False
    return severe <= mild if compares == "below" else mild <= severe


def _shown(threshold: Threshold) -> str:
    return f"[{threshold[0]:g}, {threshold[1]:g}]" if isinstance(threshold, tuple) else f"{threshold:g}"


def _fault(place: tuple[str, ...], detail: str) -> ValidationError:
    """Give the fault a place below the policy: the rule, and the field where there is one."""
    return located("Policy", ("rules", *place), detail)


DEFAULT_POLICY = Policy(name="default", description="Every rule at its own thresholds; see docs/rules.md.")
