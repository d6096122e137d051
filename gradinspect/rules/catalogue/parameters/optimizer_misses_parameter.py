"""An optimizer that does not hold all parameters that are to be trained."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import NotJudged, Rule, Thresholds
from gradinspect.wording import counted, listed


def check(evidence: Evidence, _thresholds: Thresholds) -> Finding | NotJudged | None:
    """Compare the optimizer's groups with the model's parameters."""
    optimizer = evidence.setup.optimizer
    if optimizer is None:
        return NotJudged("no optimizer object was given")
    if not optimizer.missing_count:
        return None
    trained = sum(row.status not in ("frozen",) for row in evidence.parameters)
    if optimizer.missing_count >= trained:
        stale = (
            f", and {counted(optimizer.foreign_count, 'tensor')} that the model does not have: was it made before the "
            "model was built anew or copied?"
            if optimizer.foreign_count
            else "."
        )
        message = f"The optimizer holds none of the model's parameters{stale}"
    else:
        message = (
            f"The optimizer does not hold {counted(optimizer.missing_count, 'parameter')} that require a gradient: "
            f"{listed(optimizer.missing)}. They are never moved."
        )
    return RULE.finding(
        severity="warn",
        parameters=optimizer.missing,
        value=float(optimizer.missing_count),
        message=message,
        remedy=Remedy(action="add_to_optimizer", arguments={"names": list(optimizer.missing)}),
    )


RULE = Rule(
    id="optimizer_misses_parameter",
    title="The optimizer does not hold every parameter",
    what="Parameters that require a gradient and are in no group of the optimizer object that was given.",
    why=(
        "An optimizer moves what it was given when it was made. Parameters that were added, replaced or copied later, "
        "or left out of the groups, get gradients and never move. If that is meant, freeze them with "
        "requires_grad_(False)."
    ),
    unit="parameters",
    compares="present",
    reference="torch.optim: constructing an optimizer; add_param_group",
    check=check,
    if_it_learns="kept",
    always="warn",
)
