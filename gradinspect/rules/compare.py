"""The differences between two reports. Pure: any two stored reports can be compared at any time.

A rule's change follows from the severity of its finding and, where that is equal, from its value. `info` never counts,
as it never counts in a verdict.
"""

from __future__ import annotations

import math

from gradinspect.contracts.report.comparison import (
    Change,
    ComparedInspection,
    Comparison,
    DecayComparison,
    FindingChanges,
    RuleComparison,
    Standing,
    StandingFinding,
    UnmatchedLayer,
)
from gradinspect.contracts.report.report import Finding, Report, Verdict
from gradinspect.contracts.report.sections import DepthDecay
from gradinspect.contracts.request.policy import Policy
from gradinspect.rules.catalogue import RULES
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.judge import rejudge
from gradinspect.rules.layer_changes import Side, compare_layer
from gradinspect.rules.matching import Matching, match_layers
from gradinspect.rules.rule import MOST_NAMES, Rule
from gradinspect.rules.values import RuleValue, badness, rule_values
from gradinspect.wording import number

CLEAR = 1.0  # log2, chosen: a factor of two; warn and fail of a rule are at least that far apart, except for shares
RANK: dict[Standing | Verdict, int] = {"not_judged": 0, "undetermined": 0, "pass": 0, "info": 0, "warn": 1, "fail": 2}


def compare(base: Report, head: Report, *, policy: Policy | None = None) -> Comparison:
    """Compare two reports.

    Args:
        base: the report to compare with: the last release, the model before a change.
        head: the report to judge.
        policy: judge both by this first; without it, each keeps the findings stored with it.

    Cost: every rule once on either side, and one pass over the layers.
    """
    if policy is not None:
        base, head = rejudge(base, policy), rejudge(head, policy)
    sides = Side(base), Side(head)
    matching = match_layers(base.layers, head.layers)
    rules = _compare_rules(base, head)
    change = _overall(rules, base, head)
    findings = _compare_findings(base, head, matching)
    return Comparison(
        base=_side(sides[0]),
        head=_side(sides[1]),
        change=change,
        message=_message(change, rules, findings, head),
        verdict_worse=RANK[head.verdict] > RANK[base.verdict],
        noise="seeds" if any(side.knows_chance for side in sides) else "unknown",
        notes=_notes(base, head),
        rules=rules,
        findings=findings,
        depth_decay=_compare_decay(base.depth_decay, head.depth_decay),
        layers=tuple(compare_layer(pair, *sides) for pair in matching.pairs),
        only_base=_unmatched(base, matching.only_base),
        only_head=_unmatched(head, matching.only_head),
    )


def _side(side: Side) -> ComparedInspection:
    report = side.report
    return ComparedInspection(
        inspection=report.inspection, model=report.model, measured_by=report.measured_by, verdict=report.verdict,
        policy=report.policy, seeds=side.seeds, layers=len(report.layers), parameters=len(report.parameters),
    )  # fmt: skip


def _unmatched(report: Report, indices: tuple[int, ...]) -> tuple[UnmatchedLayer, ...]:
    rows = (report.layers[index] for index in indices)
    return tuple(UnmatchedLayer(name=row.name, call=row.call, kind=row.kind) for row in rows)


def _compare_rules(base: Report, head: Report) -> tuple[RuleComparison, ...]:
    before, after = rule_values(Evidence.of(base, base.optimizer)), rule_values(Evidence.of(head, head.optimizer))
    found_before, found_after = _by_rule(base), _by_rule(head)
    return tuple(
        _compare_rule(
            rule, found_before.get(rule.id), found_after.get(rule.id), before[rule.id], after[rule.id]
        )
        for rule in RULES
    )  # fmt: skip


def _by_rule(report: Report) -> dict[str, Finding]:
    return {finding.rule: finding for finding in reversed(report.findings)}


def _compare_rule(
    rule: Rule, base: Finding | None, head: Finding | None, before: RuleValue, after: RuleValue
) -> RuleComparison:
    standings = _standing(base, before), _standing(head, after)
    values = _measured(base, before), _measured(head, after)
    change, reason = _change(rule, standings, values, after.not_judged or before.not_judged)
    return RuleComparison(
        rule=rule.id,
        title=rule.title,
        base=standings[0],
        head=standings[1],
        base_value=values[0],
        head_value=values[1],
        change=change,
        reason=reason,
    )


def _standing(finding: Finding | None, value: RuleValue) -> Standing:
    if finding is not None:
        return finding.severity
    return "not_judged" if value.not_judged is not None else "pass"


def _measured(finding: Finding | None, value: RuleValue) -> float | None:
    return finding.value if finding is not None else value.value


def _change(
    rule: Rule,
    standings: tuple[Standing, Standing],
    values: tuple[float | None, float | None],
    not_judged: str | None,
) -> tuple[Change, str]:
    before, after = standings
    step = RANK[after] - RANK[before]
    if after == "not_judged" and before != "not_judged":
        return "undetermined", f"it can no longer be judged: {not_judged}"
    if step:
        return ("worse" if step > 0 else "better"), f"from {before} to {after}"
    if not_judged is not None and "not_judged" in standings:
        return "undetermined", f"it was not judged: {not_judged}"
    if RANK[after] == 0:
        return "no_clear_change", "it counts on neither side"
    return _change_of_value(rule, *values)


def _change_of_value(rule: Rule, before: float | None, after: float | None) -> tuple[Change, str]:
    """Return the change of a finding that is as severe as before, by its value."""
    if before is None or after is None:
        return "no_clear_change", "the finding is as severe as before"
    shown = f"{number(before)} → {number(after)}"
    if rule.compares == "present":
        step = after - before
        clear = bool(step)
    else:
        middle = _middle(rule)
        ours, theirs = badness(rule, before, middle), badness(rule, after, middle)
        step = 0.0 if ours == theirs else theirs - ours
        clear = abs(step) >= CLEAR
    if not clear:
        return "no_clear_change", f"as severe as before, and its value moved by less than a factor of two: {shown}"
    return ("worse" if step > 0 else "better"), f"as severe as before, but its value moved: {shown}"


def _middle(rule: Rule) -> float | None:
    level = rule.warn or rule.fail
    if level is None or not isinstance(level.value, tuple):
        return None
    return math.sqrt(level.value[0] * level.value[1])


def _overall(rules: tuple[RuleComparison, ...], base: Report, head: Report) -> Change:
    changes = {rule.change for rule in rules}
    if "worse" in changes:
        return "worse"
    if head.verdict == "undetermined" and base.verdict != "undetermined":
        return "undetermined"
    return "better" if "better" in changes else "no_clear_change"


def _compare_findings(base: Report, head: Report, matching: Matching) -> FindingChanges:
    before, after = _by_rule(base), _by_rule(head)
    renamed = {base.layers[pair.base].name: head.layers[pair.head].name for pair in matching.pairs}
    return FindingChanges(
        new=tuple(finding for rule, finding in after.items() if rule not in before)[::-1],
        fixed=tuple(finding for rule, finding in before.items() if rule not in after)[::-1],
        still=tuple(
            _still(before[finding.rule], finding, renamed) for finding in head.findings if finding.rule in before
        ),
    )


def _still(base: Finding, head: Finding, renamed: dict[str, str]) -> StandingFinding:
    known = {renamed.get(name, name) for name in base.layers}
    remaining = set(head.layers)
    return StandingFinding(
        rule=head.rule,
        base=base,
        head=head,
        added_layers=tuple(name for name in head.layers if name not in known)[:MOST_NAMES],
        removed_layers=tuple(name for name in base.layers if renamed.get(name, name) not in remaining)[:MOST_NAMES],
    )


def _compare_decay(base: DepthDecay | None, head: DepthDecay | None) -> DecayComparison | None:
    if base is None or head is None:
        return None
    before, after = base.slope_log10_per_layer, head.slope_log10_per_layer
    if before is None or after is None:
        return DecayComparison(base=before, head=after)
    known = base.stderr is not None and head.stderr is not None
    noise = 2 * math.hypot(base.stderr or 0.0, head.stderr or 0.0) if known else None
    return DecayComparison(base=before, head=after, difference=after - before, noise=noise)


def _notes(base: Report, head: Report) -> tuple[str, ...]:
    ours, theirs = base.environment, head.environment
    pairs = (
        ("batches", ours.data_digest, theirs.data_digest),
        ("devices", ours.device, theirs.device),
        ("dtypes", ours.dtype, theirs.dtype),
        ("releases of torch", ours.torch_version, theirs.torch_version),
        ("releases of gradinspect", ours.gradinspect_version, theirs.gradinspect_version),
    )
    notes = [
        f"the two were measured with different {what}: {before} and {after}"
        for what, before, after in pairs
        if before != after and before is not None and after is not None
    ]
    if base.policy != head.policy and base.policy is not None and head.policy is not None:
        both = " and ".join(f"{policy.name} {policy.version}" for policy in (base.policy, head.policy))
        notes.append(f"the two were judged by different policies: {both}")
    return tuple(notes)


def _message(change: Change, rules: tuple[RuleComparison, ...], findings: FindingChanges, head: Report) -> str:
    if change in ("worse", "better"):
        moved = [rule for rule in rules if rule.change == change]
        first, others = moved[0], len(moved) - 1
        text = f"{change.capitalize()}: {first.title} ({first.reason})"
        finding = next((finding for finding in head.findings if finding.rule == first.rule), None)
        text += f", and {others} more." if others else "."
        return f"{text} {finding.message}"[:4096] if finding is not None else text
    if change == "undetermined":
        return "Nothing got worse that could be judged, but the head could not be judged where the base could."
    count = len([item for item in findings.still if item.head.severity != "info"])
    stands = "No finding counts on either side" if count == 0 else "The findings that count are the same"
    return f"No clear change. {stands}."
