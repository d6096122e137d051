"""All errors that cross a boundary, in one table: code, HTTP status, title, and what to do.

A caller's mistake is a `ProblemError` anywhere in the project; the API turns it into `application/problem+json`
(RFC 9457), the CLI into one line on stderr, and the client back into an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Problem(NamedTuple):
    """One entry of the table: status, title, hint."""

    status: int
    title: str
    hint: str


PROBLEMS: dict[str, Problem] = {
    "malformed_json": Problem(
        400, "The body is not strict JSON", "Send one UTF-8 JSON object without duplicate keys, NaN or Infinity."
    ),
    "bad_request": Problem(400, "The request cannot be read", "Check the request line, the query and the headers."),
    "short_body": Problem(400, "The body ended early", "Send as many bytes as Content-Length says, then try again."),
    "unauthenticated": Problem(
        401,
        "A valid key is needed",
        "Send Authorization: Bearer gi_…; the operator makes keys: gradinspect keys create.",
    ),
    "missing_scope": Problem(403, "The key does not allow this", "Use a key with the scope that `detail` names."),
    "cross_origin": Problem(
        403, "A page of another origin may not do this", "Call the service from its own pages, or from a program."
    ),
    "not_found": Problem(404, "There is nothing here", "Check the id; /openapi.json lists the paths."),
    "method_not_allowed": Problem(
        405, "This path does not take that method", "The Allow header lists the methods it takes."
    ),
    "not_acceptable": Problem(406, "No representation fits the Accept header", "Ask for application/json."),
    "conflict": Problem(
        409, "The resource is in a state that forbids this", "Read the resource and try again when its state allows it."
    ),
    "in_use": Problem(409, "The resource is in use", "Delete what uses it first."),
    "not_finished": Problem(409, "The inspection has not ended yet", "Wait for it: GET the inspection with ?wait=30."),
    "no_report": Problem(
        409, "The inspection ended without a report", "Read `error` of the inspection; it says what happened."
    ),
    "not_requested": Problem(409, "This part was not asked for", "Submit an inspection that asks for it."),
    "already_ended": Problem(
        409, "The inspection has already ended", "Only queued and running inspections can be cancelled."
    ),
    "idempotency_in_progress": Problem(
        409, "A request with this Idempotency-Key is in progress", "Retry after a second with the same key and body."
    ),
    "idempotency_mismatch": Problem(
        422, "The Idempotency-Key was used for another request", "Use a new key for a different body."
    ),
    "length_required": Problem(
        411, "Content-Length is needed", "Send Content-Length; chunked uploads are not taken here."
    ),
    "too_large": Problem(413, "The body is too large", "The limit is in `detail`; /readyz lists all limits."),
    "unsupported_media_type": Problem(
        415, "This content type is not taken here", "The Content-Type this path takes is in `detail`."
    ),
    "host_not_allowed": Problem(
        421,
        "This service does not answer to that host name",
        "Use 127.0.0.1 or localhost; the operator adds names with GRADINSPECT_ALLOWED_HOSTS.",
    ),
    "invalid_request": Problem(422, "The request has wrong fields", "`errors` names each field and what to change."),
    "invalid_spec": Problem(422, "The model spec is wrong", "`errors` names each layer and what to change."),
    "invalid_model": Problem(
        422,
        "The file is not a model that can be inspected",
        "Upload the file that torch.export.save or torch.jit.save wrote, or send a spec.",
    ),
    "invalid_data": Problem(
        422, "The data file is wrong", "Upload a safetensors file whose tensors share their first axis."
    ),
    "unsupported_operator": Problem(
        422, "The model uses an operator that is not allowed", "`detail` names the operator and where it is."
    ),
    "digest_mismatch": Problem(
        422, "The body does not have the digest of its name", "Compute the SHA-256 of the bytes again and retry."
    ),
    "too_many_requests": Problem(429, "Too many requests", "Wait as long as Retry-After says."),
    "quota_exceeded": Problem(
        429, "The tenant's quota is used up", "GET /v1/usage lists the quotas; delete artifacts that nothing uses."
    ),
    "too_many_inspections": Problem(
        429, "Too many inspections are queued", "Wait for some to end; Retry-After says how long."
    ),
    "internal": Problem(500, "Something went wrong on our side", "Report the request id; the log has the rest."),
    "unavailable": Problem(
        503, "The service is not ready", "Wait as long as Retry-After says; /readyz says what is missing."
    ),
    "uploads_disabled": Problem(
        503, "Uploads are disabled on this service", "Confinement cannot be established here; specs still work."
    ),
    "disk_full": Problem(
        507,
        "There is no room left for this upload",
        "Delete artifacts that nothing uses, or ask the operator for room.",
    ),
}


@dataclass(frozen=True)
class FieldError:
    """One wrong field: an RFC 6901 pointer into the request body, and what to change."""

    pointer: str
    detail: str


class ProblemError(Exception):
    """A caller's mistake, or a state that forbids what the caller asked.

    Args:
        code: a key of `PROBLEMS`.
        detail: what is wrong in this case, in one sentence.
        errors: the wrong fields, where fields are wrong.
        retry_after: seconds to wait before a retry.
    """

    def __init__(
        self, code: str, detail: str, *, errors: Sequence[FieldError] = (), retry_after: int | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after = retry_after

    @property
    def problem(self) -> Problem:
        """The entry of the table: status, title, hint."""
        return PROBLEMS[self.code]

    def __str__(self) -> str:
        lines = [self.detail, *(f"  {error.pointer or '/'}: {error.detail}" for error in self.errors)]
        return "\n".join(lines)


# Failures of an accepted inspection: its `error.code`, and what to do.
FAILURES: dict[str, str] = {
    "invalid_model": "Correct what the message names; a file has to be as torch.export or torch.jit.save writes it.",
    "unsupported_operator": "Replace this operator, or upload a spec.",
    "data_mismatch": "Give inputs and a target that the model and the loss take.",
    "model_error": "Run the model and the loss on this batch without gradinspect; the message is the model's own.",
    "no_gradient": "Nothing that requires a gradient reaches the loss; check requires_grad, detach() and no_grad().",
    "memory_limit": "Use a smaller batch or model, or ask the operator for a larger memory limit.",
    "time_limit": "Use a smaller batch, or ask for fewer diagnostics.",
    "cpu_limit": "Use a smaller batch, or ask for fewer diagnostics.",
    "sandbox_violation": "Remove this call: inspected models may not use files, the network or other processes.",
    "uploads_disabled": "Ask the operator for workers that can confine uploaded files; specs still work.",
    "model_crashed": "The process that ran the model died; check the model outside the service first.",
    "worker_lost": "The worker died more than once while this ran; look at its memory and its log.",
    "internal": "This is a defect of the service; report the inspection's id.",
}


class InspectionError(Exception):
    """An inspection cannot produce a report, for a reason that the caller can act on.

    Args:
        code: a key of `FAILURES`.
        detail: what happened, in one sentence, with names and shapes.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        if code not in FAILURES:
            raise ValueError(f"unknown failure code {code!r}")
        self.code = code
        self.detail = detail

    @property
    def remedy(self) -> str:
        """The action that may help the caller."""
        return FAILURES[self.code]
