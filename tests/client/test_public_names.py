"""Pinned public names: removing one, or moving an exception in its tree, is a breaking change."""

import gradinspect
from gradinspect import client

TREE = {
    "GradinspectError": "Exception",
    "ServiceUnreachable": "GradinspectError",
    "UnexpectedAnswer": "GradinspectError",
    "ApiProblem": "GradinspectError",
    "Unauthenticated": "ApiProblem",
    "MissingScope": "ApiProblem",
    "InvalidRequest": "ApiProblem",
    "NotFound": "ApiProblem",
    "Conflict": "ApiProblem",
    "TooManyRequests": "ApiProblem",
    "ServiceFault": "ApiProblem",
    "InspectionFailed": "GradinspectError",
    "InspectionCancelled": "GradinspectError",
    "StillRunning": "GradinspectError",
}


def test_the_exceptions_are_one_tree() -> None:
    assert {name: getattr(client, name).__base__.__name__ for name in TREE} == TREE


def test_the_tree_is_drawn_in_the_docstring() -> None:
    from gradinspect.client import errors

    drawn = [line.split("─ ")[-1].split()[0] for line in (errors.__doc__ or "").splitlines() if "─ " in line]
    assert drawn == [name for name in TREE if name != "GradinspectError"]


def test_the_public_names_are_these() -> None:
    assert set(client.__all__) == {"Client", "Report", *TREE}
    assert gradinspect.__all__ == ["Client", "Report", "__version__", "inspect"]
    assert gradinspect.Client is client.Client
    assert gradinspect.Report is client.Report
