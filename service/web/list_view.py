"""What the list page shows: one row per inspection, and the filters in the address. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import log10

from gradinspect.contracts.wire.resources import InspectionResource
from gradinspect.report.charts.signal_charts import sparkline
from gradinspect.report.words.figures import shortened
from service.web.formats import ago

LONGEST_NAME = 60
LONGEST_ID = 18  # in place of a missing name; its last block distinguishes it
_SCALES = {
    "use": "use scales", "keep_uniform": "keep uniform", "inconclusive_plateau": "undecided",
    "none_learns": "none learns", "undetermined": "not tested",
}  # fmt: skip


@dataclass(frozen=True)
class Overview:
    """What a row shows beyond the inspection itself.

    Attributes:
        model_name: the model's name, or its id.
        queue: the device class that it runs on.
        signals: the backward signal of its layer calls, input first, thinned out when there are many.
        severities: findings counted by severity.
    """

    model_name: str
    queue: str
    signals: tuple[float | None, ...] = ()
    severities: Mapping[str, int] | None = None


class InspectionRow:
    """One inspection as the list reads it."""

    def __init__(self, resource: InspectionResource, overview: Overview, *, now: datetime) -> None:
        severities = overview.severities or {}
        summary = resource.summary
        self.id, self.labels = resource.id, resource.labels
        self.is_named = overview.model_name != resource.model
        self.model_name = shortened(overview.model_name, LONGEST_NAME if self.is_named else LONGEST_ID)
        self.whole_name, self.queue = overview.model_name, overview.queue
        self.word = resource.verdict or resource.status
        self.is_pushed, self.step = resource.measured_by == "client", resource.step
        self.is_active = resource.status in ("queued", "running")
        self.stage, self.fraction = resource.progress.stage, resource.progress.fraction
        self.error_code = resource.error.code if resource.error is not None else None
        self.layers = summary.layers if summary is not None else None
        self.parameters = summary.parameters if summary is not None else None
        self.has_report = summary is not None
        self.scales = _SCALES.get(summary.lr_scales) if summary is not None and summary.lr_scales is not None else None
        self.fails, self.warns = severities.get("fail", 0), severities.get("warn", 0)
        self.created_at, self.age = resource.created_at, ago(resource.created_at, now)
        self.seconds = (
            max((resource.finished_at - resource.started_at).total_seconds(), 0.0)
            if resource.started_at is not None and resource.finished_at is not None
            else None
        )
        self.sparkline = sparkline(overview.signals) if len(overview.signals) > 1 else None
        self.decades = _decades(overview.signals)


def _decades(signals: tuple[float | None, ...]) -> float | None:
    """Return the powers of ten from the signal at the last to that at the first layer call."""
    known = [signal for signal in signals if signal is not None and signal > 0]
    return log10(known[0]) - log10(known[-1]) if len(known) > 1 else None


class Filters(dict[str, str]):
    """The filters of a list by name, as the URL has them; an empty text is no filter."""

    @classmethod
    def of(cls, arguments: Mapping[str, str], names: Iterable[str]) -> Filters:
        """Read the parameters with these names from a query."""
        return cls({name: arguments.get(name, "").strip()[:256] for name in names})

    @property
    def query(self) -> dict[str, str]:
        """Return the filters that are set."""
        return {name: value for name, value in self.items() if value}

    @property
    def is_set(self) -> bool:
        """Return whether any filter is set."""
        return bool(self.query)
