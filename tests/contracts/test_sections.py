"""The list of sections agrees with the documents of the report and with the names in a request."""

from __future__ import annotations

import pytest

from gradinspect.contracts.report.report import Measurements, Report
from gradinspect.contracts.report.section import Section
from gradinspect.contracts.report.sections import Sections, section_document
from gradinspect.contracts.sections import DIAGNOSTICS, SECTIONS, SectionRecord


def test_every_section_of_a_report_has_a_record() -> None:
    names = {record.name for record in SECTIONS}
    assert names == set(Sections.model_fields)
    assert names <= set(Measurements.model_fields) & set(Report.model_fields)


def test_every_name_in_a_request_beyond_the_first_pass_has_a_section_to_compute() -> None:
    computed = {record.diagnostic for record in SECTIONS if record.computation is not None} - {None}
    assert computed == set(DIAGNOSTICS) - {"gradients", "signals"}


@pytest.mark.parametrize("record", SECTIONS, ids=lambda record: record.name)
def test_labels_are_for_fields_of_the_document(record: SectionRecord) -> None:
    document = section_document(record.name)
    assert issubclass(document, Section)
    assert set(record.labels) <= set(document.model_fields)
