"""What the report page shows: one inspection, turned into words, a chart and tables. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from gradinspect.contracts.problems import FAILURES
from gradinspect.contracts.report.report import Finding, Report
from gradinspect.contracts.request.data import ArtifactData
from gradinspect.contracts.request.policy import LEVELS, Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.sections import DIAGNOSTICS, SECTIONS
from gradinspect.contracts.wire.resources import ErrorResource, InspectionResource
from gradinspect.report.charts.signal_charts import signal_profile
from gradinspect.report.words.headline import headline
from gradinspect.report.words.remedy_words import remedy_in_words
from gradinspect.report.words.sections import Section, measured_sections
from gradinspect.rules import RULES, Assessment, Rule, assess
from gradinspect.rules.document import bound_in_words
from service.web.formats import ago
from service.web.layer_table import COLUMNS, LayerTable, layer_table
from service.web.scales_view import ScalesView

MOST_NAMES = 8
_RULES = {rule.id: rule for rule in RULES}


@dataclass(frozen=True)
class Inspection:
    """Everything that is known about one inspection."""

    resource: InspectionResource
    model_name: str
    queue: str
    settings: InspectionSettings
    policy: Policy
    report: Report | None


@dataclass(frozen=True)
class FindingCard:
    """One finding with the rule behind it."""

    finding: Finding
    rule: Rule
    bound: str | None
    source: str | None
    layers: tuple[tuple[str, int | None], ...]
    remedy: str | None

    @property
    def is_open(self) -> bool:
        """Failures are open, the rest waits for a click."""
        return self.finding.severity == "fail"

    @property
    def more_layers(self) -> int:
        """Layers that are not named on the card."""
        return len(self.finding.layers) - len(self.layers)


@dataclass(frozen=True)
class Download:
    """One form of the report to take away."""

    title: str
    url: str


class InspectionView:
    """One inspection as the template reads it.

    Args:
        inspection: what is known.
        now: the time that ages are counted to.
        shows_all: all layer rows instead of the worst.
        sort: the layer table's order.
        downloads: forms of the report.
    """

    def __init__(
        self,
        inspection: Inspection,
        *,
        now: datetime,
        shows_all: bool = False,
        sort: str = "depth",
        downloads: tuple[Download, ...] = (),
    ) -> None:
        resource = inspection.resource
        self._inspection, self._now = inspection, now
        self._shows_all, self._sort = shows_all, sort
        self.id, self.model, self.status = resource.id, resource.model, resource.status
        self.labels, self.attempt, self.created_at = resource.labels, resource.attempt, resource.created_at
        self.error: ErrorResource | None = resource.error
        self.report, self.settings = inspection.report, inspection.settings
        self.model_name, self.queue = inspection.model_name, inspection.queue
        self.stage, self.fraction = resource.progress.stage, resource.progress.fraction
        self.columns, self.downloads = COLUMNS, downloads

    @property
    def is_active(self) -> bool:
        """Whether the page has to follow."""
        return self.status in ("queued", "running")

    @property
    def word(self) -> str:
        """The verdict, or the status where there is none."""
        return self.report.verdict if self.report is not None else self.status

    @property
    def age(self) -> str:
        """When it was asked for."""
        return ago(self.created_at, self._now)

    @property
    def started_age(self) -> str:
        """When it began to run."""
        started = self._inspection.resource.started_at
        return ago(started, self._now) if started is not None else "just now"

    @property
    def finished_age(self) -> str:
        """When it ended."""
        finished = self._inspection.resource.finished_at
        return ago(finished, self._now) if finished is not None else "just now"

    @property
    def seconds(self) -> float | None:
        """How long it ran."""
        resource = self._inspection.resource
        if resource.started_at is None or resource.finished_at is None:
            return None
        return max((resource.finished_at - resource.started_at).total_seconds(), 0.0)

    @property
    def remedy(self) -> str:
        """What to do about a failed inspection."""
        return FAILURES.get(self.error.code, FAILURES["internal"]) if self.error is not None else ""

    @property
    def policy_name(self) -> str:
        """The policy that judged."""
        policy = self._inspection.policy
        return policy.name if not policy.rules else f"{policy.name}, version {policy.version}"

    @property
    def data(self) -> str:
        """Where the batch came from."""
        data = self.settings.data
        if isinstance(data, ArtifactData):
            return f"uploaded, {data.artifact[:19]}…"
        return "synthetic" if data is None or data.samples is None else f"synthetic, {data.samples} samples"

    @property
    def optimizer(self) -> str:
        """The declared optimizer."""
        optimizer = self.settings.optimizer
        return "none declared" if optimizer is None else f"{optimizer.type}, lr {optimizer.lr:g}"

    @property
    def precision(self) -> str:
        """Computed in, and meant for."""
        precision = self.settings.precision
        computed = precision.compute or "the model's own"
        return (
            f"{computed}, for {precision.intended} at loss scale {precision.loss_scale:g}"
            if precision.intended
            else computed
        )

    @cached_property
    def headline(self) -> str:
        """The sentence at the top."""
        return headline(self._finished)

    @cached_property
    def _finished(self) -> Report:
        if self.report is None:
            raise ValueError(f"inspection {self.id} has no report")
        return self.report

    @cached_property
    def _assessment(self) -> Assessment:
        return assess(self._finished, policy=self._inspection.policy, settings=self.settings)

    @cached_property
    def findings(self) -> tuple[FindingCard, ...]:
        """The cards, as stored: severest first."""
        depths: dict[str, int] = {}
        for row in self._finished.layers:
            depths.setdefault(row.name, row.depth)
        known = (finding for finding in self._finished.findings if finding.rule in _RULES)
        return tuple(self._card(finding, depths) for finding in known)

    def _card(self, finding: Finding, depths: dict[str, int]) -> FindingCard:
        rule = _RULES[finding.rule]
        level = rule.limits(self._inspection.policy.rules.get(rule.id)).levels.get(finding.severity)
        default = rule.default(finding.severity)
        return FindingCard(
            finding=finding,
            rule=rule,
            bound=bound_in_words(rule, level) if level is not None else None,
            source=default.source if default is not None and default.value == level else None,
            layers=tuple((name, depths.get(name)) for name in finding.layers[:MOST_NAMES]),
            remedy=remedy_in_words(finding.remedy) if finding.remedy is not None else None,
        )

    @property
    def passed(self) -> tuple[Rule, ...]:
        """The rules that were applied and found nothing."""
        return tuple(_RULES[rule] for rule in self._assessment.passed)

    @property
    def not_judged(self) -> tuple[tuple[str, str], ...]:
        """Rules that could not be applied or are switched off, with the reason."""
        off = ((rule, "switched off by the policy") for rule in self._assessment.switched_off)
        return (*self._assessment.not_judged.items(), *off)

    @property
    def not_measured(self) -> tuple[tuple[str, str], ...]:
        """Sections of the report that have no numbers, with the reason."""
        missing = []
        for record in SECTIONS:
            section = getattr(self._finished, record.name)
            if section is not None and section.status == "undetermined":
                missing.append((record.title, section.reason or "undetermined"))
            elif section is None and record.diagnostic in {*DIAGNOSTICS} - {*self.settings.diagnostics}:
                missing.append((record.title, f"not requested; add {record.diagnostic} to the diagnostics"))
        return tuple(missing)

    @cached_property
    def chart(self) -> str:
        """Signal against depth, with the thresholds of the signal rules as lines."""
        guides = []
        for rule_id in ("vanishing_signal", "exploding_signal"):
            levels = _RULES[rule_id].limits(self._inspection.policy.rules.get(rule_id)).levels
            guides += [(level, word) for word in LEVELS if isinstance(level := levels.get(word), float)]
        return signal_profile(self._finished.layers, guides=guides, described_by="layers-table")

    @property
    def chart_has_faults(self) -> bool:
        """Whether the chart has red ticks to explain."""
        return 'class="fault"' in self.chart

    @cached_property
    def table(self) -> LayerTable:
        """The layer calls to list."""
        return layer_table(self._finished, shows_all=self._shows_all, sort=self._sort)

    @cached_property
    def shown_depths(self) -> frozenset[int]:
        """Depths that the table lists, so that a link to them leads somewhere."""
        return frozenset(row.layer.depth for row in self.table.rows)

    @property
    def gain_per_layer(self) -> float:
        """What is left of the signal after one layer call, from the fitted line."""
        decay = self._finished.depth_decay
        slope = decay.slope_log10_per_layer if decay is not None else None
        return float(10 ** max(-300.0, min(slope or 0.0, 300.0)))

    @cached_property
    def scales(self) -> ScalesView | None:
        """The learning-rate suggestion, where one was asked for and made."""
        scales = self._finished.lr_scales
        return ScalesView(scales, self._finished) if scales is not None and scales.status == "measured" else None

    @property
    def sections(self) -> tuple[Section, ...]:
        """What was measured besides: noise, curvature, the Jacobian, the training trace, low precision."""
        return tuple(section for section in measured_sections(self._finished) if section.name != "depth_decay")
