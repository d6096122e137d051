"""The one sentence at the top of a report: a number and a place."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.report.trial import Trial, TrialArm, TrialCheck
from gradinspect.wording import counted, fold, number, run_in_words


def headline(report: Report) -> str:
    """Return the most important sentence about a report, and whether training was tried."""
    return f"{main_sentence(report)}{_about_trial(report)}"


def main_sentence(report: Report) -> str:
    """Return the sentence of the finding that matters most, or what there is to say without one.

    Findings that count come first, in the catalogue's order: a signal that vanishes explains gradients that are
    uneven, not the other way round. A report of release 0.1.0 does not record that order; there the severest is first.
    """
    counting = [finding for finding in report.findings if finding.severity != "info"]
    if counting:
        order = {outcome.rule: index for index, outcome in enumerate(report.rules)}
        cause = _cured(report)
        return min(counting, key=lambda finding: (finding.rule != cause, _importance(finding, order))).message
    if report.verdict == "undetermined":
        return f"This could not be judged: {_why_undetermined(report)}."
    learned = learned_arm(report.trial)
    if learned is not None:
        return (
            f"It learns: {learned.steps} steps of {run_in_words(learned)} take the loss half of the way from the best "
            f"constant output to a perfect one.{_at_declared_rate(report.trial)}"
        )
    if report.summary.layers == 0:
        return "No layer call was recognised: the parameters were judged, the way of the signal was not."
    return _about_signal(report)


def learned_arm(trial: Trial | None) -> TrialArm | None:
    """Return the first training run that learned."""
    return next((arm for arm in trial.arms if arm.outcome == "learns"), None) if trial is not None else None


def _at_declared_rate(trial: Trial | None) -> str:
    needed = trial.steps_at_declared_rate if trial is not None else None
    return f" The declared rate needs about {number(needed)} steps for as much." if needed is not None else ""


def _about_signal(report: Report) -> str:
    gain = report.depth_decay.cumulative_gain if report.depth_decay is not None else None
    layers = counted(report.summary.layers, "layer call")
    if gain is None or gain <= 0:
        return f"No rule found a problem in {layers}."
    if 0.1 <= gain <= 10:
        size = f"{number(gain)} times its size at the output"
        return f"Gradients flow: over {layers} the backward signal arrives with {size}."
    word = "shrinks" if gain < 1 else "grows"
    return f"Gradients flow: over {layers} the backward signal {word} {fold(gain)} from output to input, within bounds."


def _about_trial(report: Report) -> str:
    """Say that training was not tried, or what it outvoted."""
    trial = report.trial
    if trial is None or report.verdict == "undetermined":
        return ""
    if trial.verdict == "undetermined" and trial.reason is not None and not any(_is_failed(c) for c in trial.checks):
        tried = "not tried" if not trial.arms else "not clear"
        return f" Whether it learns was {tried} ({trial.reason})."
    outvoted = [outcome.rule for outcome in report.rules if outcome.outcome == "outvoted"]
    if outvoted and report.verdict == "pass":
        return f" What rules inferred is outvoted by that: {', '.join(outvoted)}."
    return ""


def _is_failed(check: TrialCheck) -> bool:
    return check.name == "second_backward" and not check.passed


def _cured(report: Report) -> str | None:
    """Return the rule whose finding the first change of the prescription answers: the cause, since it was removed."""
    found = report.prescription
    return found.changes[0].rule if found is not None and found.outcome == "found" and found.changes else None


def _importance(finding: Finding, order: dict[str, int]) -> tuple[bool, int]:
    return (finding.rule == "update_ratio", order.get(finding.rule, len(order)))


def _why_undetermined(report: Report) -> str:
    trial = report.trial
    if trial is not None and trial.reason:
        return f"{_signal_reason(report)}; the learning trial: {trial.reason}"
    return _signal_reason(report)


def _signal_reason(report: Report) -> str:
    decay = report.depth_decay
    if decay is not None and decay.status == "undetermined" and decay.reason:
        return decay.reason
    return "too few layers carry a backward signal"
