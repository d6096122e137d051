"""A policy: changes to the rules' thresholds. Omitted fields keep the rule's default.

Only the form is checked here. `gradinspect.rules.policies.check_policy` checks a policy against the rules that exist
and the thresholds that each can have.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from gradinspect.contracts.document import Count, Document, Finite, Text, number_or_list

# How a rule compares its value with a threshold t. `above`: value > t. `reaches`: value ≥ t. `below`: value < t.
# `outside`: value outside [low, high]. `present`: the value is a count and fires above 0; no policy changes that.
Compares = Literal["above", "reaches", "below", "outside", "present"]
Severity = Literal["info", "warn", "fail"]
FailOn = Literal["warn", "fail"]  # the mildest severity that an audit fails on
LEVELS: tuple[Severity, ...] = ("info", "warn", "fail")  # from mild to severe
MOST_RULES = 1000  # in one policy; chosen, far above the catalogue

Bound = Annotated[Finite, Field(ge=0)]
Threshold = Annotated[
    Annotated[Bound, Tag("number")] | Annotated[tuple[Bound, Bound], Tag("list")], Discriminator(number_or_list)
]


class RulePolicy(Document):
    """Changes to one rule. A level left out keeps its default; `null` switches the level off."""

    enabled: bool = True
    info: Threshold | None = None
    warn: Threshold | None = None
    fail: Threshold | None = None

    @property
    def levels(self) -> dict[Severity, Threshold | None]:
        """The levels that the policy sets, from mild to severe."""
        return {level: getattr(self, level) for level in LEVELS if level in self.model_fields_set}


class Policy(Document):
    """A named, versioned set of changes to the rules' thresholds."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,62}$")]
    version: Annotated[Count, Field(ge=1)] = 1
    description: Text = ""
    verdicts: Literal["tried", "inferred"] = Field(
        default="tried",
        description="`tried`: the learning trial outvotes what rules infer. `inferred`: the rules alone decide.",
    )
    rules: dict[str, RulePolicy] = Field(default={}, max_length=MOST_RULES)


DEFAULT_POLICY = Policy(name="default", description="Every rule at its own thresholds; see docs/rules.md.")
