"""The output formats: the command line, the API and the page offer what is listed here."""

from __future__ import annotations

from gradinspect.report.ci.junit import JUNIT
from gradinspect.report.ci.sarif import SARIF
from gradinspect.report.html.render import HTML
from gradinspect.report.json_form import JSON
from gradinspect.report.output_format import OutputFormat
from gradinspect.report.text.markdown import MARKDOWN

FORMATS: tuple[OutputFormat, ...] = (JSON, HTML, MARKDOWN, JUNIT, SARIF)
FORMATS_BY_NAME = {form.name: form for form in FORMATS}
