"""Parameters whose gradient is exactly zero, in whole or for the most part."""

from __future__ import annotations

from gradinspect.contracts.report.operations import Fault
from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.rows import ParameterMeasurement
from gradinspect.contracts.request.policy import Severity
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.faults import BY_DESIGN, explanation, first_fault, mend, place
from gradinspect.rules.gates import Gates
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, listed, percent, quoted

_OPENED = " The layers behind it are judged with the zero weights opened, on a second pass."
_SUSPECTS = {"look_for": ["dead units", "zero weights", "clamp"]}


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Take the parameters with the largest share of exact zeros."""
    shares = [(row, share) for row in evidence.parameters if (share := _share(row, evidence)) is not None]
    if not shares:
        return NotJudged("no parameter got a gradient")
    judged = [(row, share, thresholds.severity(share)) for row, share in shares]
    closed = Gates(evidence)
    gates = {
        row.name: gate for row, share, _ in judged if share == 1.0 and (gate := _closed_gate(row, evidence, closed))
    }
    firing = [
        (row, share, severity) for row, share, severity in judged if severity is not None and row.name not in gates
    ]
    by_design = {row.name: fault for row, _, _ in firing if (fault := _by_design(evidence, row.name)) is not None}
    firing = [entry for entry in firing if entry[0].name not in by_design]
    if not firing:
        if gates:
            return _behind_gates(evidence, gates, thresholds)
        return _without_effect(evidence, by_design, thresholds) if by_design else None
    firing.sort(key=lambda entry: -entry[1])
    row, share, severity = firing[0]
    fault = first_fault(evidence, "zero", [entry[0].name for entry in firing]) if share == 1.0 else None
    if fault is not None:
        row = next(entry[0] for entry in firing if entry[0].name in fault.parameters)
    others = f" ({counted(len(firing), 'parameter')} in all)" if len(firing) > 1 else ""
    what = "is exactly zero everywhere" if share == 1.0 else f"is exactly zero in {percent(share)} of its elements"
    return RULE.finding(
        severity=severity,
        layers=[entry[0].layer for entry in firing],
        parameters=[entry[0].name for entry in firing],
        value=share,
        threshold=thresholds.crossed(severity, share),
        message=(
            f"The gradient of {quoted(row.name)} {what}{others}."
            if fault is None
            else f"The gradient of {quoted(row.name)} {what}{others}: {_ends_at(fault)}."
        ),
        explanation=_why(fault) if fault is not None else None,
        remedy=mend(fault) if fault is not None else Remedy(action="unblock_gradient", arguments=_SUSPECTS),
        operation=fault.operation if fault is not None else None,
    )


def _why(fault: Fault) -> str:
    """Explain the zero; nothing is cut where the gradient underflows."""
    return explanation(fault) if fault.operation.reason == "underflow" else f"{explanation(fault)} {RULE.why}"


def _ends_at(fault: Fault) -> str:
    where = place(fault.operation, stage=fault.stage)
    if fault.operation.reason == "underflow":
        return f"it became too small for {_dtype(fault)} at {where}"
    return f"nothing passes back through {where}"


def _dtype(fault: Fault) -> str:
    return fault.operation.inputs[0].dtype if fault.operation.inputs else "the type"


def _by_design(evidence: Evidence, name: str) -> Fault | None:
    """Return the fault that shows that a parameter has no effect on purpose: its parts cancel, or it sees padding."""
    fault = first_fault(evidence, "zero", [name])
    return fault if fault is not None and fault.operation.reason in BY_DESIGN else None


def _without_effect(evidence: Evidence, faults: dict[str, Fault], thresholds: Thresholds) -> Finding:
    severity: Severity = "info"
    shares = {row.name: _share(row, evidence) or 0.0 for row in evidence.parameters if row.name in faults}
    layers = {row.name: row.layer for row in evidence.parameters}
    largest = max(shares.values())
    fault = next(iter(faults.values()))
    return RULE.finding(
        severity=severity,
        layers=[layers[name] for name in faults],
        parameters=list(faults),
        value=largest,
        threshold=thresholds.crossed(thresholds.severity(largest) or "fail", largest),
        message=(
            f"{counted(len(faults), 'parameter')} ({listed(list(faults))}) {'has' if len(faults) == 1 else 'have'} "
            "a gradient of zero, in whole or in part, by design."
        ),
        explanation=explanation(fault),
        remedy=mend(fault),
        operation=fault.operation,
    )


def _share(row: ParameterMeasurement, evidence: Evidence) -> float | None:
    if row.status == "zero":
        return 1.0
    if row.status != "trained" or row.zero_fraction is None:
        return None
    # One batch touches a few rows of a table; the others are zero by nature.
    return 0.0 if evidence.is_embedding(row) else min(row.zero_fraction, 1.0 - 2**-53)


def _closed_gate(row: ParameterMeasurement, evidence: Evidence, gates: Gates) -> str | None:
    depth = evidence.depth_of.get(row.name)
    gate = gates.closed_for(depth) if depth is not None else None
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
        explanation=(
            "Starting a branch at zero is a known and sound choice; it is listed only for information."
            + (_OPENED if any(row.opened is not None for row in evidence.layers) else "")
        ),
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
    if_it_learns="outvoted_if_all_move",
    warn=Level(
        0.7,
        "AUTOTRAINER (Zhang et al. 2021), γ; a ReLU net at initialisation has hardly any unit off for a whole batch",
    ),
    fail=Level(1.0, "by definition: nothing of the parameter is trained"),
)
