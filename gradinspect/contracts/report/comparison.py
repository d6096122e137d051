"""The comparison of two inspections: findings, rules, and each layer's numbers with the band of chance.

`gradinspect.rules.compare` makes it; the API, the CLI and the pages show it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gradinspect.contracts.document import Count, Document, Name, Text
from gradinspect.contracts.report.report import Finding, MeasuredBy, ModelReference, PolicyReference, Verdict
from gradinspect.contracts.report.rows import Names, Number
from gradinspect.contracts.report.sections import MAX_LAYERS

Change = Literal["better", "worse", "no_clear_change", "undetermined"]
Standing = Literal["pass", "info", "warn", "fail", "not_judged"]
Difference = Literal["larger", "smaller", "within_noise", "same", "unknown"]


class ComparedInspection(Document):
    """One side of a comparison."""

    inspection: Annotated[str, Field(max_length=64)] | None = None
    model: ModelReference
    measured_by: MeasuredBy = "service"
    verdict: Verdict
    policy: PolicyReference | None = None
    seeds: Count = Field(default=1, description="Initialisations or batches that the numbers are averages over.")
    layers: Count
    parameters: Count


class Ratio(Document):
    """One number on both sides. `log2_ratio` is log2(head / base): 1 is twice as large, -1 half as large."""

    base: Number = None
    head: Number = None
    log2_ratio: Number = Field(default=None, description="Null where a side is missing or zero.")
    noise: Number = Field(
        default=None,
        description="Half width of the band that seeds alone leave in 1 of 20 numbers; null: not known.",
    )
    difference: Difference = Field(
        default="unknown",
        description="`within_noise`: seeds explain it. Without a known noise, larger and smaller say the sign alone.",
    )


class LayerComparison(Document):
    """One layer call found on both sides."""

    base: Name
    head: Name
    call: Count
    kind: Name
    head_kind: Name
    matched_by: Literal["name", "position"]
    signal_rms: Ratio = Ratio()
    cumulative_backward_gain: Ratio = Ratio()
    backward_gain: Ratio = Ratio()
    forward_gain: Ratio = Ratio()
    grad_norm: Ratio = Field(default=Ratio(), description="Of the layer's parameters together.")


class UnmatchedLayer(Document):
    """A layer call found on one side only."""

    name: Name
    call: Count
    kind: Name


class RuleComparison(Document):
    """One rule on both sides. Values are known for rules that passed, too."""

    rule: Name
    title: Name
    base: Standing
    head: Standing
    base_value: Number = None
    head_value: Number = None
    change: Change
    reason: Text


class StandingFinding(Document):
    """A finding of both sides. Each side's layers have that side's names."""

    rule: Name
    base: Finding
    head: Finding
    added_layers: Names = Field(default=(), description="Layers of the head that the base's finding did not have.")
    removed_layers: Names = Field(default=(), description="Layers of the base that the head's finding has no more.")


class FindingChanges(Document):
    """New, resolved and remaining findings."""

    new: Annotated[tuple[Finding, ...], Field(max_length=1000)] = ()
    fixed: Annotated[tuple[Finding, ...], Field(max_length=1000)] = ()
    still: Annotated[tuple[StandingFinding, ...], Field(max_length=1000)] = ()


class DecayComparison(Document):
    """The slope of the backward signal against depth, in log10 per layer call."""

    base: Number = None
    head: Number = None
    difference: Number = None
    noise: Number = Field(
        default=None, description="Half width of the band of chance: twice the standard error of the difference."
    )


class Comparison(Document):
    """The changes from `base` to `head`.

    `change` is meant for automated checks: `worse` when any rule that counts towards verdicts got worse, `undetermined`
    when the head could not be judged where the base could, `better` when something got better and nothing worse.
    """

    base: ComparedInspection
    head: ComparedInspection
    change: Change
    message: Text = Field(description="The comparison in a sentence.")
    verdict_worse: bool = Field(
        description="Whether the verdict itself went from pass to warn or fail, or warn to fail."
    )
    noise: Literal["seeds", "unknown"] = Field(
        description="Where the bands of the layers come from; `unknown`: neither side was measured with several seeds."
    )
    notes: Annotated[tuple[Text, ...], Field(max_length=16)] = Field(
        default=(), description="What makes the two sides hard to compare: other data, device, policy."
    )
    rules: Annotated[tuple[RuleComparison, ...], Field(max_length=64)] = ()
    findings: FindingChanges = FindingChanges()
    depth_decay: DecayComparison | None = None
    layers: Annotated[tuple[LayerComparison, ...], Field(max_length=MAX_LAYERS)] = ()
    only_base: Annotated[tuple[UnmatchedLayer, ...], Field(max_length=MAX_LAYERS)] = ()
    only_head: Annotated[tuple[UnmatchedLayer, ...], Field(max_length=MAX_LAYERS)] = ()
