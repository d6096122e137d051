"""Statistics over too little: normalisation over one element or one sample, and samples that contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.faults import place
from gradinspect.rules.rule import NotJudged, Rule, Thresholds
from gradinspect.wording import counted, listed, percent

CONFLICTING = 0.1  # chosen: share of the samples; a few wrong labels are usual


def check(evidence: Evidence, _thresholds: Thresholds) -> Finding | NotJudged | None:
    """Take the first of four: one element, one sample, statistics that were never updated, contradicting samples."""
    checks: Sequence[Callable[[Evidence], Finding | None]] = (_one_element, _one_sample, _fresh, _conflicting)
    return next((finding for each in checks if (finding := each(evidence)) is not None), None)


def _one_element(evidence: Evidence) -> Finding | None:
    names = evidence.setup.single_element_norms
    fault = next((fault for fault in evidence.faults if fault.operation.reason == "norm_of_one"), None)
    if not names and fault is None:
        return None
    where = listed(names) if names else place(fault.operation) if fault is not None else ""
    return RULE.finding(
        severity="warn",
        layers=names,
        value=float(max(len(names), 1)),
        message=(
            f"{where} normalises over one element: a value minus its own mean is 0, so its output does not depend on "
            "its input and nothing before it learns."
        ),
        remedy=Remedy(
            action="change_normalisation",
            arguments={
                "layers": list(names),
                "to": "fewer groups, or a place with more elements",
                "why": "one_element",
            },
        ),
        operation=fault.operation if fault is not None else None,
    )


def _one_sample(evidence: Evidence) -> Finding | None:
    names = evidence.setup.single_sample_norms
    if not names:
        return None
    return RULE.finding(
        severity="warn",
        layers=names,
        value=float(len(names)),
        message=(
            f"The batch has one sample, and {listed(names)} {'normalises' if len(names) == 1 else 'normalise'} over "
            "the batch: every sample is normalised by itself in training, and by running averages in evaluation."
        ),
        remedy=Remedy(
            action="change_normalisation",
            arguments={"layers": list(names), "to": "GroupNorm, or a larger batch", "why": "one_sample"},
        ),
    )


def _fresh(evidence: Evidence) -> Finding | None:
    names = evidence.setup.fresh_statistics
    if not names:
        return None
    return RULE.finding(
        severity="warn",
        layers=names,
        value=float(len(names)),
        message=(
            f"In evaluation mode {listed(names)} {'uses' if len(names) == 1 else 'use'} running statistics that were "
            "never updated (mean 0, variance 1): nothing is normalised."
        ),
        remedy=Remedy(action="set_mode", arguments={"mode": "train", "why": "fresh_statistics"}),
    )


def _conflicting(evidence: Evidence) -> Finding | None:
    share = evidence.setup.conflicting_samples
    if share is None or share <= CONFLICTING:
        return None
    samples = evidence.setup.samples
    of = f" of {counted(samples, 'sample')}" if samples is not None else " of the samples"
    return RULE.finding(
        severity="warn",
        value=share,
        threshold=CONFLICTING,
        message=(
            f"{percent(share)}{of} have the same input as another one and a different target: no network fits both."
        ),
        remedy=Remedy(action="check_samples", arguments={"why": "conflicting_samples"}),
    )


RULE = Rule(
    id="batch_statistics",
    title="Statistics over too little",
    what="Layers that normalise over one element, over a batch of one sample, or in evaluation mode by statistics that "
    f"were never updated; more than {percent(CONFLICTING)} of the samples with the same continuous input as another "
    "one and a different target.",
    why=(
        "A normalisation over one element returns a constant, and one over a single sample differs between training "
        "and evaluation. Samples that contradict each other keep the loss up, whatever the network is."
    ),
    unit="layers, or share of samples",
    compares="present",
    reference="Ioffe and Szegedy 2015, section 3; Wu and He 2018, Group normalization; docs of torch.nn.BatchNorm2d",
    check=check,
    if_it_learns="warn",
    always="warn",
)
