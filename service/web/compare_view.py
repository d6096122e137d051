"""What the comparison page shows: rules, findings, both signals, and the change of each layer. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gradinspect.contracts.report.comparison import Change, Comparison, LayerComparison, RuleComparison
from gradinspect.report.charts.comparison_charts import overlaid_signals, ratio_profile

MOST_ROWS = 500  # beyond it a page is slow to read; the API has all
TABLE_ID = "changes-table"
_ORDER: tuple[Change, ...] = ("worse", "better", "undetermined")
WORDS: dict[Change, str] = {
    "better": "better", "worse": "worse", "no_clear_change": "no clear change", "undetermined": "could not tell",
}  # fmt: skip


@dataclass(frozen=True)
class CompareSide:
    """One side of the comparison: what the page shows beyond the comparison itself.

    Attributes:
        parameters: elements of all parameter tensors, as in the list.
    """

    id: str
    model_name: str
    parameters: int


class CompareView:
    """A comparison as the template reads it.

    Args:
        comparison: from base to head.
        base, head: the sides.
    """

    def __init__(self, comparison: Comparison, *, base: CompareSide, head: CompareSide) -> None:
        self.comparison, self.base, self.head = comparison, base, head
        self.findings, self.notes = comparison.findings, comparison.notes
        self.rows = comparison.layers[:MOST_ROWS]
        self.rows_left_out = len(comparison.layers) - len(self.rows)
        self.word = WORDS[comparison.change]
        self.words = WORDS

    @property
    def changed_rules(self) -> list[RuleComparison]:
        """List the rules that changed, worse ones first."""
        rules = [rule for rule in self._judged if rule.change != "no_clear_change"]
        return sorted(rules, key=lambda rule: _ORDER.index(rule.change))

    @property
    def unchanged_rules(self) -> list[RuleComparison]:
        """List the rules without a clear change."""
        return [rule for rule in self._judged if rule.change == "no_clear_change"]

    @property
    def incomparable_rules(self) -> list[RuleComparison]:
        """List the rules that were not judged on at least one side, usually because of different diagnostics."""
        return [rule for rule in self.comparison.rules if _is_incomparable(rule)]

    @property
    def _judged(self) -> list[RuleComparison]:
        return [rule for rule in self.comparison.rules if not _is_incomparable(rule)]

    @property
    def overlay(self) -> str:
        """Draw both backward signals."""
        return overlaid_signals(self.comparison.layers, described_by=TABLE_ID)

    @property
    def profile(self) -> str:
        """Draw each layer's change of signal, with the band that seeds explain."""
        return ratio_profile(self.comparison.layers, described_by=TABLE_ID)

    @property
    def has_noise_band(self) -> bool:
        """Return whether the variation over seeds is known."""
        return self.comparison.noise == "seeds"

    @staticmethod
    def is_renamed(row: LayerComparison) -> bool:
        """Return whether the two sides have different names for the layer."""
        return row.base != row.head


def _is_incomparable(rule: RuleComparison) -> bool:
    """Check whether a side was not judged and neither has a finding; a new or resolved finding is comparable."""
    sides = {rule.base, rule.head}
    return "not_judged" in sides and not sides & {"warn", "fail"}
