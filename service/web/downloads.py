"""The downloads that a report's page offers."""

from __future__ import annotations

from dataclasses import dataclass

from gradinspect.report.formats import FORMATS


@dataclass(frozen=True)
class Download:
    """One form of the report."""

    title: str
    url: str


def downloads(inspection_id: str) -> tuple[Download, ...]:
    """List one report in every output format, and its two tables."""
    report = f"/v1/inspections/{inspection_id}/report"
    return (
        *(Download(form.title, f"{report}?format={form.name}") for form in FORMATS),
        Download("Layers, CSV", f"{report}?format=csv&table=layers"),
        Download("Parameters, CSV", f"{report}?format=csv&table=parameters"),
    )
