"""What an output format is. The formats are listed in `formats`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.policy import FailOn
from gradinspect.contracts.request.request import InspectionSettings


@dataclass(frozen=True)
class Circumstances:
    """What a format may show besides the report.

    Attributes:
        settings: what was requested, where it is known.
        fail_on: the mildest severity that fails.
        artifact: the model's file as the repository knows it, with `/` between folders.
        lines: the line of each layer in that file, from 1, as far as they are known.
    """

    settings: InspectionSettings | None = None
    fail_on: FailOn = "warn"
    artifact: str = "model"
    lines: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputFormat:
    """A form of the report that can be written to a file.

    Attributes:
        name: of the command's option and of the API's `format`.
        title: of the download on the page.
        media_type: of the API's answer.
        suffix: of the file's name.
        description: one sentence for the command's help.
        render: writes the report.
    """

    name: str
    title: str
    media_type: str
    suffix: str
    description: str
    render: Callable[[Report, Circumstances], str]
