"""Reads what a page shows: rows from the database, reports from the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from gradinspect.contracts.report.report import Report
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.wire.resources import InspectionResource
from gradinspect.rules.compare import compare
from service.context import context, tenant
from service.db import inspections
from service.db.lists import overviews, queries
from service.db.lists.queries import InspectionListQuery
from service.lifecycle.reports import read_report
from service.query_strings import PageQuery, validate_query
from service.resources import inspection_resource
from service.web.compare_view import CompareSide, CompareView
from service.web.list_view import Filters, InspectionRow, Overview

PAGE_SIZE = 25
FILTER_NAMES = tuple(name for name in InspectionListQuery.model_fields if name not in PageQuery.model_fields)


@dataclass(frozen=True)
class Inspection:
    """One inspection, with its report if it has one.

    Attributes:
        now: the database's time, to which ages are counted.
    """

    resource: InspectionResource
    model_name: str
    queue: str
    settings: InspectionSettings
    policy: Policy
    report: Report | None
    now: datetime

    @property
    def is_active(self) -> bool:
        """Return whether the inspection has not ended."""
        return self.resource.status in ("queued", "running")


@dataclass(frozen=True)
class ListPage:
    """One page of the list; `next_cursor` is None on the last."""

    rows: tuple[InspectionRow, ...]
    next_cursor: str | None


def list_page(filters: Filters, cursor: str | None) -> ListPage:
    """Read one page of the list.

    Raises:
        ProblemError: `invalid_request` for a filter or a cursor that cannot be.
    """
    parameters: dict[str, object] = {**filters.query, "limit": PAGE_SIZE, "cursor": cursor}
    if "label" in filters.query:
        parameters["label"] = [filters.query["label"]]
    query = validate_query(InspectionListQuery, parameters)
    with context().database.read() as session:
        listing = queries.inspections(session, query, tenant=tenant())
        names = overviews.model_names(session, [record.model_id for record in listing.items], tenant=tenant())
        found = overviews.of_inspections(session, listing.items, tenant=tenant())
        at = overviews.now(session)
    rows = tuple(
        InspectionRow(
            inspection_resource(record),
            _overview(names.get(record.model_id, record.model_id), record.queue, found.get(record.id)),
            now=at,
        )
        for record in listing.items
    )
    return ListPage(rows, listing.next_cursor)


def _overview(model_name: str, queue: str, found: overviews.Overview | None) -> Overview:
    if found is None:
        return Overview(model_name, queue)
    severities: Mapping[str, int] = found.severities
    return Overview(model_name, queue, tuple(found.signals), severities)


def open_inspection(inspection_id: str) -> Inspection:
    """Read one inspection with its report, if it has one.

    Raises:
        ProblemError: `not_found`.
    """
    with context().database.read() as session:
        record = inspections.get(session, inspection_id, tenant=tenant())
        name = _model_name(session, record.model_id)
        at = overviews.now(session)
    report = context().store.reports.get(record.report_key) if record.report_key is not None else None
    return Inspection(
        resource=inspection_resource(record),
        model_name=name,
        queue=record.queue,
        settings=InspectionSettings.model_validate(record.request, strict=False),
        policy=Policy.model_validate(record.policy_document, strict=False),
        report=report,
        now=at,
    )


def comparison(base_id: str, head_id: str) -> CompareView:
    """Compare two inspections.

    Raises:
        ProblemError: `not_found`; `not_finished` or `no_report`, when one of them has nothing to compare.
    """
    base, head = (
        read_report(context().database, context().store, inspection_id, tenant=tenant())
        for inspection_id in (base_id, head_id)
    )
    with context().database.read() as session:
        sides = [
            CompareSide(
                id=inspection_id,
                model_name=_model_name(session, inspections.get(session, inspection_id, tenant=tenant()).model_id),
                parameters=report.summary.parameters,
            )
            for inspection_id, report in ((base_id, base), (head_id, head))
        ]
    return CompareView(compare(base, head), base=sides[0], head=sides[1])


def _model_name(session: Session, model_id: str) -> str:
    return overviews.model_names(session, [model_id], tenant=tenant()).get(model_id, model_id)
