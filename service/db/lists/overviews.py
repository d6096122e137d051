"""The results shown in a list of inspections, read one page at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from service.db import clock
from service.db.results.tables import FindingRecord, LayerRecord
from service.db.tables import InspectionRecord, Json, ModelRecord

MOST_KINDS = 3  # chosen: as many as fit into a cell of the list
MOST_POINTS = 160  # slightly more than the pixels of a small chart


@dataclass
class Overview:
    """The results of one inspection in a few numbers.

    Attributes:
        signals: ‖δ‖ relative to the last layer call, input first, every n-th when there are many.
        severities: findings counted by severity.
    """

    signals: list[float | None] = field(default_factory=list)
    severities: Counter[str] = field(default_factory=Counter)


def now(session: Session) -> datetime:
    """Return the database's time, to which ages are counted."""
    return session.execute(select(clock.now())).scalar_one()


def model_names(session: Session, model_ids: Iterable[str], *, tenant: str) -> dict[str, str]:
    """Return the names of models, deleted ones included.

    A spec without a name is described by its most frequent layers; a file without a name has its id.
    """
    found = session.execute(
        select(ModelRecord.id, ModelRecord.name, ModelRecord.document).where(
            ModelRecord.tenant_id == tenant, ModelRecord.id.in_(set(model_ids))
        )
    )
    return {model_id: name or (model_id if spec is None else _layers_of(spec)) for model_id, name, spec in found}


def _layers_of(spec: Json) -> str:
    """Describe a spec by its most frequent layers: `10 Linear, 9 Sigmoid`."""
    counts: Counter[str] = Counter()
    waiting: list[tuple[object, int]] = [(spec.get("layers"), 1)]
    while waiting:
        node, times = waiting.pop()
        if isinstance(node, list):
            waiting += [(entry, times) for entry in node]
        elif isinstance(node, dict):
            inner = [node[key] for key in ("layers", "branches", "shortcut") if key in node]
            waiting += [(part, times * int(node.get("repeat", 1))) for part in inner]
            if not inner:
                counts[str(node.get("type"))] += times
    shown = [f"{count} {kind}" for kind, count in counts.most_common(MOST_KINDS)]
    return ", ".join([*shown, *(["…"] if len(counts) > MOST_KINDS else [])])


def of_inspections(session: Session, records: Sequence[InspectionRecord], *, tenant: str) -> dict[str, Overview]:
    """Read the results of the inspections on one page of a list.

    Cost: three statements, and at most `MOST_POINTS` rows an inspection.
    """
    ids = [record.id for record in records if record.report_key is not None]
    overviews = {inspection_id: Overview() for inspection_id in ids}
    counts = (
        select(LayerRecord.inspection_id, func.count())
        .where(LayerRecord.tenant_id == tenant, LayerRecord.inspection_id.in_(ids))
        .group_by(LayerRecord.inspection_id)
    )
    strides: dict[int, list[tuple[str, int]]] = {}
    for inspection_id, count in session.execute(counts):
        strides.setdefault(count // MOST_POINTS + 1, []).append((inspection_id, count - 1))
    for every, last_calls in strides.items():
        is_shown = LayerRecord.position % every == 0
        if every > 1:
            is_shown |= tuple_(LayerRecord.inspection_id, LayerRecord.position).in_(last_calls)
        points = (
            select(LayerRecord.inspection_id, LayerRecord.cumulative_backward_gain)
            .where(
                LayerRecord.tenant_id == tenant,
                LayerRecord.inspection_id.in_([inspection_id for inspection_id, _ in last_calls]),
                is_shown,
            )
            .order_by(LayerRecord.inspection_id, LayerRecord.position)
        )
        for inspection_id, gain in session.execute(points):
            overviews[inspection_id].signals.append(gain)
    severities = (
        select(FindingRecord.inspection_id, FindingRecord.severity, func.count())
        .where(FindingRecord.tenant_id == tenant, FindingRecord.inspection_id.in_(ids))
        .group_by(FindingRecord.inspection_id, FindingRecord.severity)
    )
    for inspection_id, severity, count in session.execute(severities):
        overviews[inspection_id].severities[severity] = count
    return overviews
