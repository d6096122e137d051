"""Units of a layer that are copies of each other, in weights and in gradients, and stay so."""

from __future__ import annotations

from gradinspect.contracts.report.report import Finding, Remedy
from gradinspect.rules.evidence import Evidence
from gradinspect.rules.rule import Level, NotJudged, Rule, Thresholds
from gradinspect.wording import counted, percent, quoted


def check(evidence: Evidence, thresholds: Thresholds) -> Finding | NotJudged | None:
    """Take the matrix of which most rows repeat the row before."""
    if not evidence.parameters:
        return NotJudged("there is no parameter")
    fired = [row for row in evidence.setup.repeated_rows if thresholds.severity(row.share or 0.0) is not None]
    if not fired:
        return None
    worst = max(fired, key=lambda row: row.share or 0.0)
    share = worst.share or 0.0
    severity = thresholds.severity(share) or "warn"
    names = [row.parameter for row in fired]
    layers = [evidence.by_name[name].layer for name in names if name in evidence.by_name]
    others = f", and {counted(len(fired) - 1, 'other weight')} too" if len(fired) > 1 else ""
    rows = "All rows" if share == 1.0 else f"{percent(share)} of the rows"
    return RULE.finding(
        severity=severity,
        layers=layers,
        parameters=names,
        value=share,
        threshold=thresholds.crossed(severity, share),
        message=(
            f"{rows} of {quoted(worst.parameter)} are equal, and so are their gradients{others}: its units compute "
            "the same and stay copies of each other."
        ),
        remedy=Remedy(action="redraw_weights", arguments={"weights": names, "scheme": "he", "reason": "constant"}),
    )


RULE = Rule(
    id="symmetry",
    title="All units of a layer are copies",
    what="Share of a weight's rows that equal the row before, in the weight and in its gradient (where that is not 0).",
    why=(
        "Units with equal weights that get equal gradients stay equal for ever: a layer of a hundred of them is one "
        "unit. Random initialisation makes them different; a constant does not."
    ),
    unit="share of rows",
    compares="reaches",
    largest=1.0,
    reference="Goodfellow, Bengio and Courville 2016, Deep Learning, section 8.4: breaking symmetry between units",
    check=check,
    if_it_learns="kept",
    warn=Level(0.5, "chosen: half of the layer's units are wasted"),
    fail=Level(0.9, "chosen: the whole layer, or each gate of a recurrent one, is one unit"),
)
