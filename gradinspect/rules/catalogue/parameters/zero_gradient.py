"""Parameters whose gradient is exactly zero, in whole or for the most part."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.rows import ParameterMeasurement
from gradinspect.contracts.request.policy import Severity
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.gates import closed_gate
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, listed, percent, quoted


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Take the parameters with the largest share of exact zeros."""
    shares = [(row, share) for row in evidence.parameters if (share := _share(row, evidence)) is not None]
    if not shares:
        return NotJudged("no parameter got a gradient")
    judged = [(row, share, thresholds.severity(share)) for row, share in shares]
    gates = {row.name: gate for row, share, _ in judged if share == 1.0 and (gate := _closed_gate(row, evidence))}
    firing = [
        (row, share, severity) for row, share, severity in judged if severity is not None and row.name not in gates
    ]
    if not firing:
        return _behind_gates(evidence, gates, thresholds) if gates else None
    firing.sort(key=lambda entry: -entry[1])
    row, share, severity = firing[0]
    others = f" ({counted(len(firing), 'parameter')} in all)" if len(firing) > 1 else ""
    what = "is exactly zero everywhere" if share == 1.0 else f"is exactly zero in {percent(share)} of its elements"
    return RULE.finding(
        severity=severity,
        layers=[entry[0].layer for entry in firing],
        parameters=[entry[0].name for entry in firing],
        value=share,
        threshold=thresholds.crossed(severity, share),
        message=f"The gradient of {quoted(row.name)} {what}{others}.",
        remedy=Remedy(action="unblock_gradient", arguments={"look_for": ["dead units", "zero weights", "clamp"]}),
    )


def _share(row: ParameterMeasurement, evidence: Evidence) -> float | None:
    if row.status == "zero":
        return 1.0
    if row.status != "trained" or row.zero_fraction is None:
        return None
    # One batch touches a few rows of a table; the others are zero by nature.
    return 0.0 if evidence.is_embedding(row) else min(row.zero_fraction, 1.0 - 2**-53)


def _closed_gate(row: ParameterMeasurement, evidence: Evidence) -> str | None:
    depth = evidence.depth_of.get(row.name)
    gate = closed_gate(evidence, depth, besides=row.name) if depth is not None else None
    return gate.name if gate is not None else None


def _behind_gates(evidence: Evidence, gates: dict[str, str], thresholds: Thresholds) -> Finding | None:
    severity: Severity = "info"
    gate = next(iter(gates.values()))
    layers = {row.name: row.layer for row in evidence.parameters}
    verb = "gets" if len(gates) == 1 else "get"
    return RULE.finding(
        severity=severity,
        layers=[layers[name] for name in gates],
        parameters=list(gates),
        value=1.0,
        threshold=thresholds.crossed(thresholds.severity(1.0) or "fail", 1.0),
        message=(
            f"{counted(len(gates), 'parameter')} ({listed(list(gates))}) {verb} no gradient in the first step, because "
            f"{quoted(gate)} starts at zero; it gets one itself, so the way opens with the first step."
        ),
        explanation="Starting a branch at zero is a known and sound choice; it is listed only for information.",
    )


RULE = Rule(
    id="zero_gradient",
    title="Gradients that are exactly zero",
    what="The share of a parameter's gradient elements that are exactly zero.",
    why=(
        "An exact zero is not a small gradient: the path to the loss is cut, by dead units, by a zero weight or by an "
        "operation without a slope. These weights will not move at all."
    ),
    unit="share of elements",
    compares="reaches",
    largest=1.0,
    reference="Lu et al. 2019, for dying ReLUs; PyTorch forum threads on gradients that are all zero",
    check=check,
    warn=Level(
        0.7,
        "AUTOTRAINER (Zhang et al. 2021), γ; a ReLU net at initialisation has hardly any unit off for a whole batch",
    ),
    fail=Level(1.0, "by definition: nothing of the parameter is trained"),
)
