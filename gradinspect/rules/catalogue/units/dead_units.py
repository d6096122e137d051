"""Units whose output is zero for every sample: they pass nothing on and learn nothing."""

from __future__ import annotations

import math

from gradinspect.contracts.nonlinearities import names_of
from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.rules.catalogue.signal.correlation_collapse import expected_dead_fraction
from gradinspect.rules.evidence import Evidence, functions_of, names
from gradinspect.rules.faults import fault_of_layers
from gradinspect.rules.gates import Gates
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, percent, quoted

CAN_BE_ZERO = names_of("is_hard_zero")
NEARLY_PARALLEL = 0.9  # chosen: above this, shared biases and unequal pairs move the expected share by up to one half
UNEQUAL_PAIRS = 1.5  # measured on He-initialised nets of width 64 to 512: pairs differ, and the closest ones count most
STANDARD_DEVIATIONS = 3.0  # of a binomial count of units: a share beyond this is more than chance


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Take the layer with the largest share of dead units beyond what parallel samples explain."""
    gates = Gates(evidence)
    rows = [_opened(row) for row in evidence.layers if functions_of(row) & CAN_BE_ZERO and not _is_unknown(row, gates)]
    if not rows:
        return NotJudged("no layer has a nonlinearity that can be exactly zero")
    firing = [row for row in rows if thresholds.severity(_share(row)) is not None and not _is_explained(row)]
    if not firing:
        return None
    firing.sort(key=lambda row: -_share(row))
    worst = firing[0]
    value = _share(worst)
    severity = thresholds.severity(value) or "warn"
    fault = fault_of_layers(evidence, "flat_region", firing)
    others = f", and {counted(len(firing) - 1, 'other layer')} too" if len(firing) > 1 else ""
    return RULE.finding(
        severity=severity,
        layers=names(firing),
        value=value,
        threshold=thresholds.crossed(severity, value),
        message=f"{percent(value)} of the units of {quoted(worst.name)} are zero for every sample{others}.",
        remedy=Remedy(
            action="revive_units",
            arguments={
                "zero_biases": True,
                "or_replace_activation": {"from": worst.nonlinearity or worst.joined_nonlinearity, "to": "leaky_relu"},
            },
        ),
        operation=fault.operation if fault is not None else None,
    )


def _is_unknown(row: LayerMeasurement, gates: Gates) -> bool:
    """Check whether the units of a call were not counted, or saw nothing but the zeros of a closed gate."""
    if row.dead_unit_fraction is None:
        return True
    return row.dead_unit_fraction == 1 and row.opened is None and gates.before(row.depth) is not None


def _opened(row: LayerMeasurement) -> LayerMeasurement:
    """Return the row with the dead units that it has once the zero weights before it are opened."""
    if row.opened is None or row.opened.dead_unit_fraction is None:
        return row
    return row.model_copy(update={"dead_unit_fraction": row.opened.dead_unit_fraction})


def _share(row: LayerMeasurement) -> float:
    return row.dead_unit_fraction or 0.0


def _is_explained(row: LayerMeasurement) -> bool:
    """Check whether random weights leave this share of units off for a whole batch of samples this similar."""
    expected = expected_dead_fraction(row)
    if expected is None:
        return False
    # If all samples were equal, a unit would be off for all of them or for none.
    largest = 0.5 if (row.sample_similarity or 0.0) >= NEARLY_PARALLEL else UNEQUAL_PAIRS * expected
    units = row.output_shape[1] if len(row.output_shape) > 2 and "conv" in row.kind.lower() else row.output_shape[-1]
    return _share(row) <= largest + STANDARD_DEVIATIONS * math.sqrt(largest * max(1 - largest, 0.0) / max(units, 1))


RULE = Rule(
    id="dead_units",
    title="Dead units",
    what="Share of a layer's units (channels of a convolution) that are exactly 0 for at least 99 % of the batch.",
    why=(
        "A unit that is zero for every sample has no slope either: it gets no gradient, so it stays dead. The layer is "
        "narrower than it looks, and usually large negative biases or a too large learning rate made it so."
    ),
    unit="share of units",
    compares="above",
    largest=1.0,
    reference="Lu et al. 2019, Dying ReLU and initialization; Poole et al. 2016, for units that are off by correlation",
    check=check,
    if_it_learns="warn",
    warn=Level(0.2, "chosen: a fifth of the layer's width is lost"),
    fail=Level(
        0.5, "Amazon SageMaker Debugger, DeadRelu: half of the layer's width is lost, which random weights never do"
    ),
)
