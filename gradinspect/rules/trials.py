"""Which remedies are worth trying at once, while the model is still at hand."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Measurements, Remedy
from gradinspect.rules.catalogue.signal import exploding_signal, vanishing_signal
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import apply

TRIED = frozenset({"initialize", "replace_activation", "scale_residual"})  # a fresh copy and one pass tell what they do


def remedies_to_try(measured: Measurements) -> tuple[Remedy, ...]:
    """The remedies of a signal that is bad by the rules' own thresholds, where trying them is cheap.

    What this gives is only tried, never judged by: the report is judged later, by the policy that was asked for.
    """
    evidence = Evidence.of(measured, None)
    found = [apply(rule, evidence, rule.thresholds(None)) for rule in (vanishing_signal.RULE, exploding_signal.RULE)]
    return tuple(
        finding.remedy
        for finding in found
        if isinstance(finding, Finding) and finding.remedy is not None and finding.remedy.action in TRIED
    )
