"""What can go wrong between a client and a service, as one tree:

    GradinspectError
    ├── ServiceUnreachable      nobody answered: address, network, TLS, time-out
    ├── UnexpectedAnswer        somebody answered, but not this API: a proxy, another service, another version
    ├── ApiProblem              the service refused: `code`, `status`, `detail`, `errors`, `hint`, `request_id`
    │   ├── InvalidRequest      400, 422 and their kin: change the request
    │   ├── NotFound            404
    │   ├── Conflict            409: the resource is in a state that forbids this
    │   ├── TooManyRequests     429, after the retries that Retry-After asked for
    │   └── ServiceFault        5xx, after retries
    ├── InspectionFailed        the inspection ran and gave no report: `code`, `detail`, `remedy`, `inspection`
    ├── InspectionCancelled     somebody cancelled it: `inspection`
    └── StillRunning            it had not ended in the time that the caller gave: `inspection`

What is wrong before anything is sent (a spec, an option, a file) is a `ProblemError`, as without a server.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradinspect.contracts.problems import FAILURES, FieldError


class GradinspectError(Exception):
    """Whatever a client can raise about a service."""


class ServiceUnreachable(GradinspectError):  # noqa: N818  # says what is so
    """Nobody answered.

    Args:
        url: where.
        reason: what the network said.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"the service at {url} does not answer: {reason}")
        self.url, self.reason = url, reason


class UnexpectedAnswer(GradinspectError):  # noqa: N818  # says what is so
    """The answer is not one of this API's.

    Args:
        url: which was asked.
        status: HTTP status.
        reason: what is odd about it.
    """

    def __init__(self, url: str, status: int, reason: str) -> None:
        super().__init__(f"{url} answered {status} with something else than this API: {reason}")
        self.url, self.status, self.reason = url, status, reason


class ApiProblem(GradinspectError):  # noqa: N818  # says what is so
    """The service refused a request, as `application/problem+json` says.

    Args:
        code: of `gradinspect.contracts.problems`.
        status: HTTP status.
        detail: what is wrong in this case.
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


class NotFound(ApiProblem):
    """There is no such thing."""


class Conflict(ApiProblem):
    """The resource is in a state that forbids this."""


class TooManyRequests(ApiProblem):
    """Too much at once."""


class ServiceFault(ApiProblem):
    """The service could not answer."""


class InspectionFailed(GradinspectError):  # noqa: N818  # says what is so
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
        """What the caller can do about it."""
        return FAILURES.get(self.code, FAILURES["internal"])


class InspectionCancelled(GradinspectError):  # noqa: N818  # says what is so
    """An inspection was cancelled."""

    def __init__(self, inspection: str) -> None:
        super().__init__(f"the inspection {inspection} was cancelled")
        self.inspection = inspection


class StillRunning(GradinspectError):  # noqa: N818  # says what is so
    """An inspection has not ended in the time given; it goes on.

    Args:
        inspection: its id, to wait again.
        seconds: how long it was waited for.
    """

    def __init__(self, inspection: str, seconds: float) -> None:
        super().__init__(f"the inspection {inspection} has not ended within {seconds:g} s; it goes on")
        self.inspection, self.seconds = inspection, seconds


def problem_of(
    code: str, status: int, detail: str, *, errors: Sequence[FieldError] = (), hint: str = "", request_id: str = ""
) -> ApiProblem:
    """The class of the tree that a status belongs to."""
    kinds: dict[int, type[ApiProblem]] = {404: NotFound, 409: Conflict, 429: TooManyRequests}
    kind = kinds.get(status, ServiceFault if status >= 500 else InvalidRequest)
    return kind(code, status, detail, errors=errors, hint=hint, request_id=request_id)
