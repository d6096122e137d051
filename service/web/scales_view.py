"""What the report page shows of learning-rate scales: the answer, bars, evidence, and code to paste. Pure."""

from __future__ import annotations

from functools import cached_property

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.report.sections import LrScales
from gradinspect.report.charts.scale_charts import paired_evidence, scale_bars
from gradinspect.report.optimizer_code import optimizer_code
from gradinspect.report.words.scale_words import (
    answer,
    base_rate_words,
    candidate_rows,
    evidence_words,
    group_note,
    remedy_rows,
)

TABLE_ID = "scales-table"


class ScalesView:
    """The suggestion of one report.

    Args:
        scales: as the report has it.
        report: the report, for its optimizer.
    """

    def __init__(self, scales: LrScales, report: Report) -> None:
        self._scales, self._report = scales, report
        self.sentence, self.verdict = answer(scales), scales.verdict
        self.base_rate, self.evidence = base_rate_words(scales), evidence_words(scales)
        self.groups = [(group, group_note(group)) for group in scales.groups]
        self.candidates, self.remedies = candidate_rows(scales), remedy_rows(scales)

    @property
    def bars(self) -> str | None:
        """The scales on a log2 axis; None when there are none."""
        return scale_bars(self._scales.groups, described_by=TABLE_ID) if self._scales.groups else None

    @property
    def curves(self) -> str | None:
        """The losses of the probe; None when it kept none."""
        evidence = self._scales.evidence
        return paired_evidence(self._scales) if evidence is not None and evidence.curves else None

    @cached_property
    def code(self) -> str | None:
        """Source that builds the optimizer, where the answer is to use scales."""
        if self._scales.code is not None:
            return self._scales.code
        return optimizer_code(self._scales, optimizer=self._report.optimizer) if self.verdict == "use" else None
