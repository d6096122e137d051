"""A report as JSON, in the form of the API: a section that was not asked for is absent."""

from __future__ import annotations

from gradinspect.contracts.report.report import Report


def render_json(report: Report) -> str:
    """Write the whole report as one line of JSON."""
    absent = {name for name in type(report).model_fields if getattr(report, name) is None and name != "inspection"}
    return report.model_dump_json(exclude=absent) + "\n"
