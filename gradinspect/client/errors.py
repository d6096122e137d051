"""Errors of the client, as one tree.

    GradinspectError
    ├── ServiceUnreachable      no answer: address, network, TLS, time-out
    ├── UnexpectedAnswer        an answer, but not of this API: a proxy, another service, another version
    ├── ApiProblem              the service refused: `code`, `status`, `detail`, `errors`, `hint`, `request_id`
    │   ├── Unauthenticated     401: give a valid key
    │   ├── MissingScope        403: the key does not allow this
    │   ├── InvalidRequest      400, 422 and similar: change the request
    │   ├── NotFound            404
    │   ├── Conflict            409: the resource is in a state that forbids this
    │   ├── TooManyRequests     429, after the retries that Retry-After asked for
    │   └── ServiceFault        5xx, after retries
    ├── InspectionFailed        the inspection ran and gave no report: `code`, `detail`, `remedy`, `inspection`
    ├── InspectionCancelled     it was cancelled: `inspection`
    └── StillRunning            it has not ended within the caller's time-out: `inspection`

A mistake that is found before anything is sent (a spec, an option, a file) is a `ProblemError`, as without a service.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradinspect.contracts.problems import FAILURES, FieldError


class GradinspectError(Exception):
    """The base of all errors about a service."""


class ServiceUnreachable(GradinspectError):  # noqa: N818  # states what happened
    """The service does not answer.

    Args:
        url: of the service.
        reason: the error of the network.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"the service at {url} does not answer: {reason}")
        self.url, self.reason = url, reason


class UnexpectedAnswer(GradinspectError):  # noqa: N818  # states what happened
    """The answer is not one of this API's.

    Args:
        url: of the request.
        status: HTTP status.
        reason: what was unexpected.
    """

    def __init__(self, url: str, status: int, reason: str) -> None:
        super().__init__(f"{url} answered {status} with something else than this API: {reason}")
        self.url, self.status, self.reason = url, status, reason


class ApiProblem(GradinspectError):  # noqa: N818  # states what happened
    """The service refused a request, as `application/problem+json` says.

    Args:
        code: of `gradinspect.contracts.problems`.
        status: HTTP status.
        detail: what is wrong.
        errors: the wrong fields.
        hint: what to do about it.
        request_id: for the service's log.
    """

    def __init__(
        self, code: str, status: int, detail: str, *, errors: Sequence[FieldError] = (), hint: str = "",
        request_id: str = "",
    ) -> None:  # fmt: skip
        super().__init__(f"{code}: {detail}")
        self.code, self.status, self.detail = code, status, detail
        self.errors, self.hint, self.request_id = tuple(errors), hint, request_id

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.detail}", *(f"  {error.pointer or '/'}: {error.detail}" for error in self.errors)]
        return "\n".join(lines)


class InvalidRequest(ApiProblem):
    """The request is wrong."""


class Unauthenticated(ApiProblem):
    """The service needs a key, and got none that is valid."""


class MissingScope(ApiProblem):
    """The key does not allow this."""


class NotFound(ApiProblem):
    """The resource does not exist."""


class Conflict(ApiProblem):
    """The resource is in a state that forbids this."""


class TooManyRequests(ApiProblem):
    """There are too many requests or queued inspections."""


class ServiceFault(ApiProblem):
    """The service failed to answer."""


class InspectionFailed(GradinspectError):  # noqa: N818  # states what happened
    """An inspection ended without a report.

    Args:
        inspection: its id.
        code: of `gradinspect.contracts.problems.FAILURES`.
        detail: what happened.
    """

    def __init__(self, inspection: str, code: str, detail: str) -> None:
        super().__init__(f"the inspection {inspection} failed: {code}: {detail}")
        self.inspection, self.code, self.detail = inspection, code, detail

    @property
    def remedy(self) -> str:
        """What the caller can do."""
        return FAILURES.get(self.code, FAILURES["internal"])


class InspectionCancelled(GradinspectError):  # noqa: N818  # states what happened
    """An inspection was cancelled."""

    def __init__(self, inspection: str) -> None:
        super().__init__(f"the inspection {inspection} was cancelled")
        self.inspection = inspection


class StillRunning(GradinspectError):  # noqa: N818  # states what happened
    """An inspection has not ended in time; it continues.

    Args:
        inspection: its id, to wait again.
        seconds: how long the client waited.
    """

    def __init__(self, inspection: str, seconds: float) -> None:
        super().__init__(f"the inspection {inspection} has not ended within {seconds:g} s; it continues")
        self.inspection, self.seconds = inspection, seconds


def problem_of(
    code: str, status: int, detail: str, *, errors: Sequence[FieldError] = (), hint: str = "", request_id: str = ""
) -> ApiProblem:
    """Return the exception for a status."""
    kinds: dict[int, type[ApiProblem]] = {
        401: Unauthenticated,
        403: MissingScope,
        404: NotFound,
        409: Conflict,
        429: TooManyRequests,
    }
    kind = kinds.get(status, ServiceFault if status >= 500 else InvalidRequest)
    return kind(code, status, detail, errors=errors, hint=hint, request_id=request_id)
