"""The forms of a report that its page offers to take away."""

from __future__ import annotations

from service.web.report_view import Download


def downloads(inspection_id: str) -> tuple[Download, ...]:
    """Links to one report as a page that stands alone, as JSON, and as its two tables."""
    report = f"/v1/inspections/{inspection_id}/report"
    return (
        Download("HTML", f"{report}?format=html"),
        Download("JSON", f"{report}?format=json"),
        Download("Layers, CSV", f"{report}?format=csv&table=layers"),
        Download("Parameters, CSV", f"{report}?format=csv&table=parameters"),
    )
