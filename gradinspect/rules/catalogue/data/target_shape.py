"""Output and target are compared by broadcasting: every output with every target."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import NotJudged, Rule, Thresholds


def check(evidence: Evidence, _thresholds: Thresholds) -> Finding | NotJudged | None:
    """Look for a loss that stretched both the output and the target."""
    if not evidence.setup.heads:
        return NotJudged("the loss takes no difference of output and target")
    head = next((head for head in evidence.setup.heads if head.compared_shape), None)
    if head is None:
        return None
    output, target, compared = (_shape(each) for each in (head.output_shape, head.target_shape, head.compared_shape))
    return RULE.finding(
        severity="warn",
        value=1.0,
        message=(
            f"The output {output} and the target {target} are stretched to {compared}: every output is compared with "
            "every target, and the best answer is the same number for all samples."
        ),
        remedy=Remedy(
            action="reshape_target",
            arguments={"from": list(head.target_shape), "to": list(head.output_shape)},
        ),
    )


def _shape(sizes: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


RULE = Rule(
    id="target_shape",
    title="Output and target have different shapes",
    what="Whether the loss stretches the output and the target, which have equally many elements, to a larger shape.",
    why=(
        "An output (N, 1) minus a target (N,) has N × N elements. The loss falls to the variance of the targets and no "
        "further, while every number looks ordinary."
    ),
    unit="losses",
    compares="present",
    reference="torch's broadcasting rules; the warning of torch.nn.MSELoss, which callables do not show",
    check=check,
    if_it_learns="kept",
    always="warn",
)
