"""Rows of named policies. `default` is built in and has no row."""

from __future__ import annotations

import json

from sqlalchemy import delete as delete_rows
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.request.policy import DEFAULT_POLICY, Policy
from service.db.ids import is_id, new_id
from service.db.statements import change
from service.db.tables import PolicyRecord


def insert(session: Session, policy: Policy, *, tenant: str) -> PolicyRecord:
    """Add a policy.

    Raises:
        ProblemError: `conflict`, its name is built in, or this version of it exists.
    """
    if policy.name == DEFAULT_POLICY.name:
        raise ProblemError("conflict", f"the policy {policy.name!r} is built in; choose another name")
    record = PolicyRecord(
        id=new_id("pol"),
        tenant_id=tenant,
        name=policy.name,
        version=policy.version,
        document=policy.model_dump(mode="json", exclude_unset=True),
    )
    try:
        with session.begin_nested():
            session.add(record)
    except IntegrityError:
        detail = f"version {policy.version} of the policy {policy.name!r} exists; raise `version`"
        raise ProblemError("conflict", detail) from None
    return record


def get(session: Session, policy_id: str, *, tenant: str) -> PolicyRecord:
    """Read one policy by its id.

    Raises:
        ProblemError: `not_found`.
    """
    record = session.get(PolicyRecord, (policy_id, tenant)) if is_id("pol", policy_id) else None
    if record is None:
        raise ProblemError("not_found", f"there is no policy {policy_id}")
    return record


def resolve(session: Session, reference: str, *, tenant: str) -> Policy:
    """Return the policy of a reference: `default`, an id, or a name (its newest version).

    Raises:
        ProblemError: `not_found`.
    """
    if reference == DEFAULT_POLICY.name:
        return DEFAULT_POLICY
    if is_id("pol", reference):
        record = session.get(PolicyRecord, (reference, tenant))
    elif "\x00" in reference:  # PostgreSQL takes no NUL in a text, and no name has one
        record = None
    else:
        record = session.scalar(
            select(PolicyRecord)
            .where(PolicyRecord.tenant_id == tenant, PolicyRecord.name == reference)
            .order_by(PolicyRecord.version.desc())
            .limit(1)
        )
    if record is None:
        detail = f"there is no policy {reference!r}; GET /v1/policies lists them, and `default` is built in"
        raise ProblemError("not_found", detail)
    return as_policy(record)


def as_policy(record: PolicyRecord) -> Policy:
    """Return the document of a row."""
    return Policy.model_validate_json(json.dumps(record.document))


def list_all(session: Session, *, tenant: str) -> list[PolicyRecord]:
    """Read every stored policy, by name, newest version first."""
    found = session.scalars(
        select(PolicyRecord)
        .where(PolicyRecord.tenant_id == tenant)
        .order_by(PolicyRecord.name, PolicyRecord.version.desc())
    )
    return list(found)


def delete(session: Session, policy_id: str, *, tenant: str) -> None:
    """Delete one policy; inspections keep the copy they were submitted with.

    Raises:
        ProblemError: `not_found`.
    """
    mine = delete_rows(PolicyRecord).where(PolicyRecord.id == policy_id, PolicyRecord.tenant_id == tenant)
    if change(session, mine) == 0:
        raise ProblemError("not_found", f"there is no policy {policy_id}")
