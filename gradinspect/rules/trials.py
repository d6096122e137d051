"""The remedies to test right after the measurement, while the model is in memory."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Measurements, Remedy
from gradinspect.rules.catalogue.signal import exploding_signal, vanishing_signal
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import apply

TRIED = frozenset({"initialize", "replace_activation", "scale_residual"})  # a fresh copy and one pass show their effect


def remedies_to_try(measured: Measurements) -> tuple[Remedy, ...]:
    """Return the remedies of a signal that is bad by the default thresholds, where trying them is cheap.

    The report itself is judged later, under the requested policy.
    """
    evidence = Evidence.of(measured, None)
    results = [apply(rule, evidence, rule.thresholds(None)) for rule in (vanishing_signal.RULE, exploding_signal.RULE)]
    return tuple(
        finding.remedy
        for finding in results
        if isinstance(finding, Finding) and finding.remedy is not None and finding.remedy.action in TRIED
    )
