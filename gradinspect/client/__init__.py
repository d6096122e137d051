"""The HTTP client: typed models in and out, one exception tree, retries in its transport. No torch, no server.

What may live here: the calls of the API, one file for each noun. What may not: computing, and checks that belong to the
service.
"""

from __future__ import annotations

from gradinspect.client.client import Client
from gradinspect.client.errors import (
    ApiProblem,
    Conflict,
    GradinspectError,
    InspectionCancelled,
    InspectionFailed,
    InvalidRequest,
    MissingScope,
    NotFound,
    ServiceFault,
    ServiceUnreachable,
    StillRunning,
    TooManyRequests,
    Unauthenticated,
    UnexpectedAnswer,
)
from gradinspect.report.shown import Report

__all__ = [
    "ApiProblem",
    "Client",
    "Conflict",
    "GradinspectError",
    "InspectionCancelled",
    "InspectionFailed",
    "InvalidRequest",
    "MissingScope",
    "NotFound",
    "Report",
    "ServiceFault",
    "ServiceUnreachable",
    "StillRunning",
    "TooManyRequests",
    "Unauthenticated",
    "UnexpectedAnswer",
]
