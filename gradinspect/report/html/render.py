"""A report as one HTML file that fetches and runs nothing, as a notebook's output, and as the body of a page."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.report.html.body import report_body
from gradinspect.report.html.environment import environment
from gradinspect.report.html.listing import Listing, whole_listing
from gradinspect.report.output_format import OutputFormat

if TYPE_CHECKING:
    from jinja2 import Template

MOST_NOTEBOOK_ROWS = 40
# The report's rules have no specificity, so that a page's own style sheet wins over them. Inside a notebook they have
# that of an id, and win over the notebook's.
_WEAK, _STRONG = ":where(.gradinspect)", ".gradinspect:not(#_)"


def render_html(report: Report, *, settings: InspectionSettings | None = None) -> str:
    """Write a report as a file.

    Args:
        report: the report.
        settings: what was requested, where it is known.
    """
    body = report_body(report, whole_listing(report), settings=settings)
    return _template("file.html").render(body=body, style=style_sheet())


HTML = OutputFormat(
    name="html",
    title="HTML",
    media_type="text/html",
    suffix="html",
    description="Write a page that needs no other file.",
    render=lambda report, circumstances: render_html(report, settings=circumstances.settings),
)


def notebook_html(report: Report, *, settings: InspectionSettings | None = None) -> str:
    """Write a report for a notebook: fewer rows, and styles that neither take from the notebook nor give to it.

    It follows the notebook's theme (Jupyter, VS Code, Colab, Jupyter Book), not the operating system's. It needs no
    script. A front end that removes `<style>` shows the same text with its own styles.
    """
    digest = sha256(report.model_dump_json(include={"summary", "model", "findings"}).encode()).hexdigest()
    listing = whole_listing(report, most=MOST_NOTEBOOK_ROWS)
    body = report_body(report, listing, settings=settings, prefix=f"g{digest[:8]}-")
    style = _read("notebook.css") + style_sheet().replace(_WEAK, _STRONG)
    return _template("notebook.html").render(body=body, style=style)


def render_body(report: Report, listing: Listing, *, settings: InspectionSettings | None = None) -> str:
    """Write a report for a page that brings its own frame and links to `style_sheet`."""
    return _template("body.html").render(body=report_body(report, listing, settings=settings))


@cache
def style_sheet() -> str:
    """Return the styles of `<… class="gradinspect">`."""
    return _read("report.css")


def _read(name: str) -> str:
    return files("gradinspect.report.html").joinpath(name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Template:
    return environment().get_template(f"report/{name}")
