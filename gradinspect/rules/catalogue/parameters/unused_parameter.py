"""Parameters that the loss does not depend on: their gradient is None."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.faults import explanation, first_fault, mend, place
from gradinspect.rules.rule import NotJudged, Rule, Thresholds
from gradinspect.wording import counted, listed


def check(evidence: Evidence, _: Thresholds) -> Finding | NotJudged | None:
    """Name the parameters that require a gradient and got none."""
    if not evidence.parameters:
        return NotJudged("the model has no parameters")
    unused = [row for row in evidence.parameters if row.status == "unused"]
    if not unused:
        return None
    names = [row.name for row in unused]
    verb = "does" if len(names) == 1 else "do"
    cut = first_fault(evidence, "cut", names)
    if cut is not None:
        return RULE.finding(
            severity="warn",
            layers=[row.layer for row in unused],
            parameters=names,
            value=float(len(names)),
            message=(
                f"{counted(len(names), 'parameter')} ({listed(names)}) {verb} not learn from the loss: the gradient's "
                f"way back ends at {place(cut.operation)}."
            ),
            explanation=f"{explanation(cut)} {RULE.why}",
            remedy=mend(cut),
            operation=cut.operation,
        )
    return RULE.finding(
        severity="warn",
        layers=[row.layer for row in unused],
        parameters=names,
        value=float(len(names)),
        message=f"{counted(len(names), 'parameter')} ({listed(names)}) {verb} not take part in the loss.",
        remedy=Remedy(action="remove_or_connect", arguments={"parameters": names[:64]}),
    )


RULE = Rule(
    id="unused_parameter",
    title="Parameters without a part in the loss",
    what="Parameters that require a gradient and get None, but for those that feed outputs this loss does not read.",
    why=(
        "Such a layer is never called, or its output is thrown away or detached. It costs memory, never learns, and "
        "stops distributed training with an error; often a line in forward() is missing."
    ),
    unit="parameters",
    compares="present",
    reference="PyTorch issue 57776; torch.nn.parallel.DistributedDataParallel, find_unused_parameters",
    check=check,
    if_it_learns="kept",
    always="warn",
)
