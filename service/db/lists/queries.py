"""Lists of inspections, models and runs, newest first, in pages; every page costs the same, however deep in the list.

A filter is a field of the query model and a condition in the function below it. Lists of layers and parameters are in
`row_queries`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field
from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.orm import Session

from gradinspect.contracts.report.report import MeasuredBy, Verdict
from gradinspect.contracts.wire.resources import Status
from gradinspect.rules import RULE_IDS
from service.db.lists.pages import Listing, page_of
from service.db.results.tables import FindingRecord
from service.db.tables import InspectionRecord, LabelRecord, ModelRecord, RunRecord
from service.query_strings import Moment, PageQuery, PlainText


def _known_rule(rule: str) -> str:
    if rule not in RULE_IDS:
        raise ValueError(f"there is no such rule; known are {', '.join(RULE_IDS)}")
    return rule


class InspectionListQuery(PageQuery):
    """The parameters of a list of inspections."""

    status: Status | None = None
    verdict: Verdict | None = None
    model: Annotated[
        Annotated[PlainText, Field(max_length=64)] | None, Field(description="Id of a model: its history in time.")
    ] = None
    name: Annotated[
        Annotated[PlainText, Field(max_length=256)] | None, Field(description="Name of the model, exactly.")
    ] = None
    label: Annotated[
        list[PlainText], Field(max_length=32, description="`key=value`, `key:value` or `key`; repeated, all of them.")
    ] = []
    rule: Annotated[
        Annotated[str, AfterValidator(_known_rule)] | None,
        Field(description="A rule that made a finding.", json_schema_extra={"enum": list(RULE_IDS)}),
    ] = None
    measured_by: MeasuredBy | None = None
    run: Annotated[
        Annotated[PlainText, Field(max_length=64)] | None, Field(description="Id of a training run: its steps.")
    ] = None
    created_after: Annotated[Moment | None, Field(description="Later than this moment.")] = None
    created_before: Annotated[Moment | None, Field(description="Earlier than this moment.")] = None


def inspections(session: Session, query: InspectionListQuery, *, tenant: str) -> Listing[InspectionRecord]:
    """Read a page of inspections, newest first.

    Raises:
        ProblemError: `invalid_request` for a cursor of another list.
    """
    rows = select(InspectionRecord).where(InspectionRecord.tenant_id == tenant, InspectionRecord.deleted_at.is_(None))
    return page_of(session, rows.where(*_conditions(query, tenant)), InspectionRecord, query, tenant)


def _conditions(query: InspectionListQuery, tenant: str) -> Iterator[ColumnElement[bool]]:
    if query.status is not None:
        yield InspectionRecord.status == query.status
    if query.verdict is not None:
        yield InspectionRecord.verdict == query.verdict
    if query.model is not None:
        yield InspectionRecord.model_id == query.model
    if query.name is not None:
        named = select(ModelRecord.id).where(ModelRecord.tenant_id == tenant, ModelRecord.name == query.name)
        yield InspectionRecord.model_id.in_(named)
    for label in query.label:
        yield _has_label(label, tenant)
    if query.rule is not None:
        found = FindingRecord.inspection_id == InspectionRecord.id
        yield exists().where(found, FindingRecord.tenant_id == tenant, FindingRecord.rule == query.rule)
    if query.measured_by is not None:
        yield InspectionRecord.measured_by == query.measured_by
    if query.run is not None:
        yield InspectionRecord.run_id == query.run
    if query.created_after is not None:
        yield InspectionRecord.created_at > query.created_after
    if query.created_before is not None:
        yield InspectionRecord.created_at < query.created_before


def _has_label(text: str, tenant: str) -> ColumnElement[bool]:
    key, *value = re.split("[=:]", text, maxsplit=1)  # no key contains either
    labelled = select(LabelRecord.inspection_id).where(LabelRecord.tenant_id == tenant, LabelRecord.key == key)
    return InspectionRecord.id.in_(labelled.where(LabelRecord.value == value[0]) if value else labelled)


class ModelListQuery(PageQuery):
    """The parameters of a list of models."""

    name: Annotated[
        Annotated[PlainText, Field(max_length=256)] | None, Field(description="Models with exactly this name.")
    ] = None


def models(session: Session, query: ModelListQuery, *, tenant: str) -> Listing[ModelRecord]:
    """Read a page of models, newest first.

    Raises:
        ProblemError: `invalid_request` for a cursor of another list.
    """
    rows = select(ModelRecord).where(ModelRecord.tenant_id == tenant, ModelRecord.deleted_at.is_(None))
    if query.name is not None:
        rows = rows.where(ModelRecord.name == query.name)
    return page_of(session, rows, ModelRecord, query, tenant)


class RunListQuery(PageQuery):
    """The parameters of a list of runs."""

    name: Annotated[
        Annotated[PlainText, Field(max_length=256)] | None, Field(description="Runs with exactly this name.")
    ] = None


def runs(session: Session, query: RunListQuery, *, tenant: str) -> Listing[RunRecord]:
    """Read a page of training runs, newest first.

    Raises:
        ProblemError: `invalid_request` for a cursor of another list.
    """
    rows = select(RunRecord).where(RunRecord.tenant_id == tenant)
    if query.name is not None:
        rows = rows.where(RunRecord.name == query.name)
    return page_of(session, rows, RunRecord, query, tenant)
