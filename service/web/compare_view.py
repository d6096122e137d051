"""What the comparison page shows: rules, findings, both signals, and every layer's change. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gradinspect.contracts.report.comparison import Change, Comparison, LayerComparison, RuleComparison
from gradinspect.report.charts.comparison_charts import overlaid_signals, ratio_profile

MOST_ROWS = 500  # beyond it a page is slow to read; the API has all
TABLE_ID = "changes-table"
_ORDER: tuple[Change, ...] = ("worse", "better", "undetermined", "no_clear_change")
WORDS: dict[Change, str] = {
    "better": "better", "worse": "worse", "no_clear_change": "no clear change", "undetermined": "could not tell",
}  # fmt: skip


@dataclass(frozen=True)
class SideName:
    """One side of the comparison as the page names it."""

    id: str
    model_name: str


class CompareView:
    """A comparison as the template reads it."""

    def __init__(self, comparison: Comparison, *, base: SideName, head: SideName) -> None:
        self.comparison, self.base, self.head = comparison, base, head
        self.findings, self.notes = comparison.findings, comparison.notes
        self.rows = comparison.layers[:MOST_ROWS]
        self.rows_left_out = len(comparison.layers) - len(self.rows)

    @property
    def word(self) -> str:
        """The change in words."""
        return WORDS[self.comparison.change]

    @property
    def changed_rules(self) -> list[tuple[RuleComparison, str, str]]:
        """Rules that changed: each with its title and its change in words, worse ones first."""
        rules = [rule for rule in self.comparison.rules if _has_changed(rule)]
        rules.sort(key=lambda rule: _ORDER.index(rule.change))
        return [(rule, rule.title, WORDS[rule.change]) for rule in rules]

    @property
    def unchanged_rules(self) -> list[RuleComparison]:
        """Rules without a clear change."""
        return [rule for rule in self.comparison.rules if not _has_changed(rule)]

    @property
    def overlay(self) -> str:
        """Both backward signals."""
        return overlaid_signals(self.comparison.layers, described_by=TABLE_ID)

    @property
    def profile(self) -> str:
        """Each layer's change of signal, with the band of chance."""
        return ratio_profile(self.comparison.layers, described_by=TABLE_ID)

    @property
    def knows_chance(self) -> bool:
        """Whether the bands are known."""
        return self.comparison.noise == "seeds"

    @staticmethod
    def is_renamed(row: LayerComparison) -> bool:
        """Whether the two sides call the layer by different names."""
        return row.base != row.head


def _has_changed(rule: RuleComparison) -> bool:
    """Whether there is anything to tell; a rule that neither side could be judged by has not."""
    return rule.change != "no_clear_change" and not rule.base == rule.head == "not_judged"
