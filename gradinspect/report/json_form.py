"""A report as JSON, in the form of the API: a section that was not requested is absent."""

from __future__ import annotations

from gradinspect.contracts.report.report import Report
from gradinspect.report.output_format import OutputFormat


def render_json(report: Report) -> str:
    """Write the whole report as one line of JSON."""
    absent = {name for name in type(report).model_fields if getattr(report, name) is None and name != "inspection"}
    return report.model_dump_json(exclude=absent) + "\n"


JSON = OutputFormat(
    name="json",
    title="JSON",
    media_type="application/json",
    suffix="json",
    description="Write the report as JSON.",
    render=lambda report, _: render_json(report),
)
