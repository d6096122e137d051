"""Parameters with requires_grad=False, named so that none is frozen by mistake."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import NotJudged, Rule, Thresholds
from gradinspect.wording import counted, listed, percent


def check(evidence: Evidence, _: Thresholds) -> Finding | NotJudged | None:
    """Name the frozen parameters and their share."""
    if not evidence.parameters:
        return NotJudged("the model has no parameters")
    frozen = [row for row in evidence.parameters if row.status == "frozen"]
    if not frozen:
        return None
    names = [row.name for row in frozen]
    share = sum(row.numel for row in frozen) / max(sum(row.numel for row in evidence.parameters), 1)
    return RULE.finding(
        severity="info",
        layers=[row.layer for row in frozen],
        parameters=names,
        value=share,
        message=(
            f"{counted(len(names), 'parameter tensor')} ({listed(names)}) "
            f"{'is' if len(names) == 1 else 'are'} frozen: {percent(share)} of the model's values do not train."
        ),
        remedy=Remedy(action="unfreeze", arguments={"parameters": names[:64]}),
    )


RULE = Rule(
    id="frozen_parameter",
    title="Frozen parameters",
    what="Parameters with requires_grad=False.",
    why="Right for fine-tuning, wrong when it was forgotten after an experiment: frozen weights never change.",
    unit="share of the model's values",
    compares="present",
    reference="PyTorch documentation, Autograd mechanics, setting requires_grad",
    check=check,
    if_it_learns="kept",
    always="info",
)
