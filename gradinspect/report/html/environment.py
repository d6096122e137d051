"""Jinja environments for reports and pages: every value is escaped, every filter is defined here once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradinspect.report.words.figures import amount, duration, printable, shape, size
from gradinspect.wording import number, percent

if TYPE_CHECKING:
    from jinja2 import BaseLoader, Environment
    from markupsafe import Markup


def environment(*loaders: BaseLoader) -> Environment:
    """Make an environment with the report's templates, under `report/`, and those of the loaders."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined  # slow to import

    made = Environment(
        loader=ChoiceLoader([*loaders, PrefixLoader({"report": PackageLoader("gradinspect.report.html")})]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "amount": amount, "duration": duration, "lines": lines, "marked": marked, "number": number, "percent": percent,
        "shape": shape, "size": size,
    }  # fmt: skip
    return made


def marked(message: str) -> Markup:
    """Escape a sentence and show the names between its backticks as code."""
    from markupsafe import Markup, escape

    parts = printable(message).split("`")
    if len(parts) % 2 == 0:  # the name itself contains a backtick
        return escape(printable(message))
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(part) if index % 2 else part for index, part in enumerate(parts))


def lines(text: str) -> Markup:
    """Escape a text of several lines, such as source code, and keep its line breaks."""
    from markupsafe import Markup

    return Markup("\n").join(printable(line) for line in text.split("\n"))


def _printable(value: Any) -> Any:  # Any: Jinja passes whatever a template prints
    """Remove control characters from plain text; names come from untrusted models."""
    return printable(value) if type(value) is str else value
