"""The output formats: each one renders every report."""

from collections.abc import Callable

import pytest

from gradinspect.contracts.report.report import Report
from gradinspect.report.formats import FORMATS
from gradinspect.report.output_format import Circumstances, OutputFormat
from tests.support.sample_reports import ALL


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_format_renders_every_report(form: OutputFormat, make: Callable[[], Report]) -> None:
    assert form.render(make(), Circumstances()).strip()


def test_names_and_suffixes_and_media_types_are_unique() -> None:
    for field in ("name", "suffix", "media_type", "title"):
        values = [getattr(form, field) for form in FORMATS]
        assert len(values) == len(set(values))
