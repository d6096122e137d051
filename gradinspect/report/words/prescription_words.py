"""The prescription in words: the answer in one sentence, and its changes."""

from __future__ import annotations

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.trial import Prescription
from gradinspect.report.words.figures import printable
from gradinspect.wording import counted


def shown_prescription(report: Report) -> Prescription | None:
    """Return the prescription where it has something to say: a model that needs none is not told so."""
    found = report.prescription
    return None if found is None or found.outcome == "not_needed" else found


def prescription_answer(found: Prescription) -> str:
    """Write the answer in one sentence."""
    if found.outcome == "found":
        changes = counted(len(found.changes), "change")
        seeds = f", on {counted(found.seeds, 'seed')}" if found.seeds > 1 else ""
        return f"With {changes} this model learns{_skills(found)}{seeds}."
    reason = printable(found.reason) if found.reason else "no reason was recorded"
    if found.outcome == "not_found":
        return f"No prescription was found in {counted(found.tried, 'attempt')}: {reason}."
    if found.outcome == "not_tried":
        return f"No prescription was tried: {reason}."
    return f"No change is needed: {reason}."


def prescription_changes(found: Prescription) -> tuple[str, ...]:
    """Return the changes in their order, one sentence each."""
    return tuple(printable(change.text) for change in found.changes)


def _skills(found: Prescription) -> str:
    if found.skill_before is None or found.skill_after is None:
        return ""
    steps = f" after {counted(len(found.curve), 'step')}" if found.curve else ""
    return f": its skill is {_skill(found.skill_after)}{steps} where it was {_skill(found.skill_before)}"


def _skill(value: float) -> str:
    """Write a skill: 0 is the best constant answer and 1 is perfect; far below 0 the number says nothing."""
    return f"{value:.2f}".replace("-0.00", "0.00") if value > -1 else "below −1"
