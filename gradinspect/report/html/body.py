"""What the report's template reads: the report, and what is derived from it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradinspect.contracts.report.operations import Operation
from gradinspect.contracts.report.outcomes import RuleOutcome
from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.report.sections import LrScales, ScaleGroup
from gradinspect.contracts.report.trial import Trial
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.charts.prescription_charts import before_and_after
from gradinspect.report.charts.scale_charts import paired_evidence, scale_bars
from gradinspect.report.charts.signal_charts import signal_profile
from gradinspect.report.charts.trial_chart import trial_curves
from gradinspect.report.columns import Column, columns_with_values
from gradinspect.report.html.listing import Listing
from gradinspect.report.layer_lines import LayerLine
from gradinspect.report.words.headline import headline
from gradinspect.report.words.operation_words import operation_code, operation_in_words, operation_inputs
from gradinspect.report.words.prescription_words import (
    prescription_answer,
    prescription_changes,
    shown_prescription,
)
from gradinspect.report.words.remedy_words import remedy_in_words
from gradinspect.report.words.rule_words import bound_crossed, not_applied, rule_title, signal_thresholds
from gradinspect.report.words.scale_words import (
    answer,
    base_rate_words,
    candidate_rows,
    evidence_words,
    group_note,
    remedy_rows,
    scales_code,
)
from gradinspect.report.words.sections import (
    Fact,
    Section,
    environment_facts,
    headline_facts,
    measured_sections,
    missing_sections,
    model_name,
    request_facts,
    self_check_facts,
)
from gradinspect.report.words.trial_words import ArmRow, arm_rows, check_words, trial_answer, unmoved_words

MOST_NAMES = 8


@dataclass(frozen=True)
class Card:
    """One finding with the rule behind it.

    Attributes:
        outcome: what the report recorded of the rule; None in a report of release 0.1.0.
        bound: the threshold that was crossed, in words.
        layers: the first few layers that it names, each with the address of its row, if it is listed.
        remedy: what to change, in words.
        operation: where the pass breaks, what went in, and the line of source code, in words.
    """

    finding: Finding
    title: str
    outcome: RuleOutcome | None
    bound: str | None
    layers: tuple[tuple[str, str | None], ...]
    remedy: str | None
    operation: tuple[str, tuple[str, ...], str | None] | None

    @property
    def is_outvoted(self) -> bool:
        """Check whether the learning trial outvoted the finding."""
        return self.outcome is not None and self.outcome.outcome == "outvoted"


@dataclass(frozen=True)
class Scales:
    """The learning-rate suggestion: the answer, its charts, its evidence, and code to paste."""

    answer: str
    base_rate: str | None
    groups: tuple[tuple[ScaleGroup, str], ...]
    bars: str | None
    curves: str | None
    candidates: Sequence[tuple[str, str, str, str]]
    evidence: str | None
    remedies: Sequence[tuple[str, str, str | None]]
    code: str | None


@dataclass(frozen=True)
class ShownPrescription:
    """The prescription: the answer, its changes, its curves, and code to paste."""

    answer: str
    changes: tuple[str, ...]
    curves: str | None
    code: str | None


@dataclass(frozen=True)
class TrialView:
    """The learning trial: the answer, the chart of its runs, the runs, and the plain checks."""

    answer: str
    curves: str
    rows: tuple[ArmRow, ...]
    checks: str
    unmoved: str | None


@dataclass(frozen=True)
class Body:
    """One report as its template reads it; `prefix` makes the ids in it unique on a page with several reports."""

    report: Report
    name: str
    headline: str
    facts: tuple[Fact, ...]
    prescription: ShownPrescription | None
    cards: tuple[Card, ...]
    outvoted: tuple[Card, ...]
    trial: TrialView | None
    passed: tuple[RuleOutcome, ...]
    not_applied: tuple[Fact, ...]
    chart: str
    listing: Listing
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    scales: Scales | None
    request: tuple[Fact, ...]
    measurement: tuple[Fact, ...]
    missing: tuple[Fact, ...]
    prefix: str


def report_body(
    report: Report, listing: Listing, *, settings: InspectionSettings | None = None, prefix: str = ""
) -> Body:
    """Derive everything that the template shows.

    Args:
        report: the report.
        listing: the layer calls to list.
        settings: what was requested, where it is known.
        prefix: of all ids.
    """
    scales, cards = report.lr_scales, _cards(report, listing, prefix)
    return Body(
        report=report,
        name=model_name(report),
        headline=headline(report),
        facts=headline_facts(report),
        prescription=_prescription(report),
        cards=tuple(card for card in cards if not card.is_outvoted),
        outvoted=tuple(card for card in cards if card.is_outvoted),
        trial=_trial(report.trial, prefix) if report.trial is not None and report.trial.arms else None,
        passed=tuple(outcome for outcome in report.rules if outcome.outcome == "passed"),
        not_applied=not_applied(report),
        chart=signal_profile(report.layers, guides=signal_thresholds(report), described_by=f"{prefix}layers-table"),
        listing=listing,
        columns=columns_with_values([line.layer for line in listing.lines if isinstance(line, LayerLine)]),
        sections=measured_sections(report),
        scales=_scales(report, scales, prefix) if scales is not None and scales.status == "measured" else None,
        request=request_facts(settings) if settings is not None else (),
        measurement=_measurement(report, has_request=settings is not None),
        missing=missing_sections(report, settings),
        prefix=prefix,
    )


def _prescription(report: Report) -> ShownPrescription | None:
    found = shown_prescription(report)
    if found is None:
        return None
    return ShownPrescription(
        answer=prescription_answer(found),
        changes=prescription_changes(found),
        curves=before_and_after(found) if found.curve else None,
        code=found.code,
    )


def _measurement(report: Report, *, has_request: bool) -> tuple[Fact, ...]:
    """List how the numbers were measured, without the seed where the request shows it."""
    facts = (*environment_facts(report), *self_check_facts(report))
    return tuple(fact for fact in facts if not (has_request and fact.label == "seed"))


def _cards(report: Report, listing: Listing, prefix: str) -> tuple[Card, ...]:
    outcomes = {outcome.rule: outcome for outcome in report.rules}
    depths: dict[str, int] = {}
    for row in report.layers:
        depths.setdefault(row.name, row.depth)
    cards = []
    for finding in report.findings:
        outcome = outcomes.get(finding.rule)
        cards.append(
            Card(
                finding=finding,
                title=rule_title(finding, outcome),
                outcome=outcome,
                bound=bound_crossed(outcome) if outcome is not None else None,
                layers=tuple((name, listing.address(depths.get(name), prefix)) for name in finding.layers[:MOST_NAMES]),
                remedy=remedy_in_words(finding.remedy) if finding.remedy is not None else None,
                operation=_operation(finding.operation) if finding.operation is not None else None,
            )
        )
    return tuple(cards)


def _operation(operation: Operation) -> tuple[str, tuple[str, ...], str | None]:
    return operation_in_words(operation), operation_inputs(operation), operation_code(operation)


def _trial(trial: Trial, prefix: str) -> TrialView:
    return TrialView(
        answer=trial_answer(trial),
        curves=trial_curves(trial, described_by=f"{prefix}trial-table"),
        rows=arm_rows(trial),
        checks=check_words(trial),
        unmoved=unmoved_words(trial),
    )


def _scales(report: Report, scales: LrScales, prefix: str) -> Scales:
    has_curves = scales.evidence is not None and bool(scales.evidence.curves)
    return Scales(
        answer=answer(scales),
        base_rate=base_rate_words(scales),
        groups=tuple((group, group_note(group)) for group in scales.groups),
        bars=scale_bars(scales.groups, described_by=f"{prefix}scales-table") if scales.groups else None,
        curves=paired_evidence(scales) if has_curves else None,
        candidates=candidate_rows(scales),
        evidence=evidence_words(scales),
        remedies=remedy_rows(scales),
        code=scales_code(report),
    )
