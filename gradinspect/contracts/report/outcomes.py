"""The outcome of each rule for a judged report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradinspect.contracts.document import Document, Name, Text
from gradinspect.contracts.request.policy import Compares, Severity, Threshold

OutcomeKind = Literal["finding", "passed", "not_judged", "switched_off", "outvoted"]


class RuleOutcome(Document):
    """One rule as it was applied: its words, its thresholds and its outcome.

    Contains everything that pages show about a rule, so that a report stays the same when the rules change.
    """

    rule: Name
    title: Name
    what: Text = Field(description="What the rule measures.")
    why: Text = Field(description="Why it matters.")
    unit: Name = Field(description="Unit of the value and the thresholds.")
    source: Text = Field(description="Where the idea comes from.")
    outcome: OutcomeKind = Field(
        description="`not_judged`: a measurement is missing. `switched_off`: by the policy. `outvoted`: training the "
        "model contradicts the finding."
    )
    is_required: bool = Field(
        default=False, description="Whether a report without findings is `undetermined` where this rule is not judged."
    )
    severity: Severity | None = Field(default=None, description="Severity of the finding; null without one.")
    inferred_severity: Severity | None = Field(
        default=None, description="What the rule alone says, where the learning trial made the finding milder."
    )
    compares: Compares = Field(
        description="How the value is compared with a threshold. `present`: a count, with 0 as threshold."
    )
    thresholds: Annotated[dict[Severity, Threshold], Field(max_length=3)] = Field(
        default={}, description="The thresholds that were used, by the severity that each leads to."
    )
    threshold_source: Text | None = Field(
        default=None, description="Where the threshold that the finding crossed comes from; null where a policy set it."
    )
    reason: Text | None = Field(default=None, description="Why the rule was not judged, or was outvoted.")
