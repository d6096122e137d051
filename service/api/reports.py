"""The results of one inspection: the report, its findings under any policy, its learning-rate scales, its rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Literal, TypeVar

from apiflask import APIBlueprint
from pydantic import AfterValidator, Field
from werkzeug.wrappers import Response

from gradinspect.contracts.document import Document
from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.report.report import Finding, PolicyReference, Report
from gradinspect.contracts.report.sections import LrScales
from gradinspect.contracts.report.trial import Prescription
from gradinspect.contracts.request.policy import Policy
from gradinspect.contracts.request.request import InspectionSettings
from gradinspect.contracts.wire.resources import FindingsResource, LayerRow, Page, ParameterRow
from gradinspect.report.formats import FORMATS
from gradinspect.report.output_format import Circumstances
from gradinspect.rules import rejudge
from service.api import tables
from service.api.http.answers import conditional, is_known_to_caller, json_answer
from service.api.http.operations import Answer, operation
from service.api.http.reading import JSON, best_of
from service.api.rows import answer_rows
from service.context import context, tenant
from service.db import inspections, policies
from service.db.lists import row_queries
from service.db.lists.row_filters import RowQuery
from service.db.results import writing as results
from service.db.tables import InspectionRecord
from service.lifecycle.references import named_at
from service.lifecycle.reports import report_key
from service.query_strings import Query

CSV, PYTHON = "text/csv", "text/x-python"
MEDIA_TYPES = {**{form.name: form.media_type for form in FORMATS}, "csv": CSV}
OTHER_TYPES = [media_type for media_type in MEDIA_TYPES.values() if media_type != JSON]
_FORMS = {form.media_type: form for form in FORMATS}
_SUFFIXES = {**{form.media_type: form.suffix for form in FORMATS}, CSV: "csv"}
NO_REPORT = ["not_finished", "no_report"]
# A self-contained page: inline styles, no scripts, no external resources.
FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"

DocumentT = TypeVar("DocumentT", bound=Document)

blueprint = APIBlueprint("reports", __name__, tag="reports")


def _known(name: str) -> str:
    if name not in MEDIA_TYPES:
        raise ValueError(f"is one of {', '.join(MEDIA_TYPES)}")
    return name


FormatName = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(MEDIA_TYPES)})]


class ReportQuery(Query):
    """The form of the answer."""

    format: Annotated[FormatName | None, Field(description="The same as Accept, for links; a download.")] = None
    table: Annotated[Literal["parameters", "layers"], Field(description="Which of the two tables a CSV holds.")] = (
        "parameters"
    )


class FindingsQuery(Query):
    """The policy to judge by."""

    policy: Annotated[
        str | None,
        Field(min_length=1, max_length=64, description="Id or name of a policy, or `default`: judge the report anew."),
    ] = None


class ScalesQuery(Query):
    """The form of the answer."""

    format: Annotated[
        Literal["json", "torch"], Field(description="`torch`: Python source that builds the optimizer.")
    ] = "json"


class PrescriptionQuery(Query):
    """The form of the answer."""

    format: Annotated[
        Literal["json", "torch"], Field(description="`torch`: Python that changes `model` and makes `optimizer`.")
    ] = "json"


@blueprint.get("/v1/inspections/<inspection_id>/report")
@operation(scope="read", rate="report_reads",
    query=ReportQuery,
    headers=["Accept", "If-None-Match"],
    answers=[
        Answer(
            200, "The report, or one of its tables.", Report, other=OTHER_TYPES,
            headers=["ETag"],
        ),
        Answer(304, "The report is still the one with that ETag."),
    ],
    problems=NO_REPORT,
)  # fmt: skip
def get_report(inspection_id: str, query: ReportQuery) -> Response:
    """Return the whole report."""
    record, key = _find(inspection_id)
    media_type = MEDIA_TYPES[query.format] if query.format is not None else best_of(list(MEDIA_TYPES.values()))
    response = Response(mimetype=media_type, headers={"Cache-Control": "no-cache", "Vary": "Accept"})
    response.set_etag(f"{key}-{media_type.partition('/')[2]}-{query.table}")
    if not is_known_to_caller(response):
        response.set_data(_written(record, key, media_type, query.table))
        response.headers["Content-Disposition"] = _disposition(record, query, media_type)
        response.headers["Content-Security-Policy"] = FILE_POLICY
    return response


@blueprint.get("/v1/inspections/<inspection_id>/findings")
@operation(
    scope="read",
    rate="report_reads",
    query=FindingsQuery,
    answers=[Answer(200, "The findings, and the verdict that follows from them.", FindingsResource)],
    problems=NO_REPORT,
)
def get_findings(inspection_id: str, query: FindingsQuery) -> Response:
    """Return the findings of the rules; with `policy`, judge the stored report again without computing anything."""
    record, key = _find(inspection_id)
    return json_answer(_stored_findings(record) if query.policy is None else _judged_anew(record, key, query.policy))


@blueprint.get("/v1/inspections/<inspection_id>/lr-scales")
@operation(
    scope="read",
    rate="report_reads",
    query=ScalesQuery,
    answers=[Answer(200, "The suggestion, or code that follows it.", LrScales, other=[PYTHON])],
    problems=[*NO_REPORT, "not_requested"],
)
def get_lr_scales(inspection_id: str, query: ScalesQuery) -> Response:
    """Learning-rate scales per layer, and the evidence for them."""
    scales = _section(inspection_id, "lr_scales", LrScales, absent="this inspection did not ask for lr_scales")
    return _with_code(scales, scales.code, query.format, otherwise=scales.reason or "nothing was suggested")


@blueprint.get("/v1/inspections/<inspection_id>/prescription")
@operation(
    scope="read",
    rate="report_reads",
    query=PrescriptionQuery,
    answers=[Answer(200, "The prescription, or its code.", Prescription, other=[PYTHON])],
    problems=[*NO_REPORT, "not_requested"],
)
def get_prescription(inspection_id: str, query: PrescriptionQuery) -> Response:
    """Return the changes with which the model was seen to learn, and the code that was run."""
    absent = "this inspection made no trial, so nothing was prescribed"
    found = _section(inspection_id, "prescription", Prescription, absent=absent)
    return _with_code(found, found.code, query.format, otherwise=found.reason or found.outcome)


@blueprint.get("/v1/inspections/<inspection_id>/layers")
@operation(
    scope="read",
    rate="report_reads",
    query=row_queries.InspectionLayerQuery,
    answers=[Answer(200, "One page of layer calls.", Page[LayerRow], other=[CSV], headers=["Link"])],
    problems=NO_REPORT,
)
def list_layers_of_inspection(inspection_id: str, query: RowQuery) -> Response:
    """List the layer calls of one inspection, in the network's order unless sorted."""
    _find(inspection_id)
    return answer_rows(LayerRow, row_queries.layers, query, inspection=inspection_id)


@blueprint.get("/v1/inspections/<inspection_id>/parameters")
@operation(
    scope="read",
    rate="report_reads",
    query=row_queries.InspectionParameterQuery,
    answers=[Answer(200, "One page of parameters.", Page[ParameterRow], other=[CSV], headers=["Link"])],
    problems=NO_REPORT,
)
def list_parameters_of_inspection(inspection_id: str, query: RowQuery) -> Response:
    """List the parameters of one inspection, in the model's order unless sorted."""
    _find(inspection_id)
    return answer_rows(ParameterRow, row_queries.parameters, query, inspection=inspection_id)


def _find(inspection_id: str) -> tuple[InspectionRecord, str]:
    """Return the row of an inspection and the key of its report."""
    with context().database.read() as session:
        record = inspections.get(session, inspection_id, tenant=tenant())
    return record, report_key(record)


def _section(inspection_id: str, name: str, document: type[DocumentT], *, absent: str) -> DocumentT:
    """Read one section of a stored report; `absent` is what a caller is told where the report has none."""
    _, key = _find(inspection_id)
    stored = json.loads(context().store.reports.read(key)).get(name)
    if stored is None:
        raise ProblemError("not_requested", absent)
    return document.model_validate(stored, strict=False)


def _with_code(
    document: Document, code: str | None, requested: Literal["json", "torch"], *, otherwise: str
) -> Response:
    """Answer with a document, or with its code where the caller prefers Python; `otherwise` is why there is none."""
    if requested == "json" and best_of([JSON, PYTHON]) == JSON:
        return json_answer(document)
    if code is None:
        raise ProblemError("not_requested", f"there is no code to give: {otherwise}")
    return conditional(Response(code, mimetype=PYTHON))


def _written(record: InspectionRecord, key: str, media_type: str, table: str) -> bytes | str:
    reports = context().store.reports
    if media_type == JSON:
        return reports.read(key)
    report = reports.get(key)
    if media_type in _FORMS:
        return _FORMS[media_type].render(report, Circumstances(settings=_settings_of(record)))
    if table == "layers":
        return tables.layers(report.layers, measured_by=report.measured_by)
    return tables.parameters(report.parameters, measured_by=report.measured_by)


def _disposition(record: InspectionRecord, query: ReportQuery, media_type: str) -> str:
    is_link = query.format is not None
    stem = f"{record.id}-{query.table}" if media_type == CSV else record.id
    name = f"{stem}.{_SUFFIXES[media_type]}"
    return f'{"attachment" if is_link else "inline"}; filename="{name}"'


def _stored_findings(record: InspectionRecord) -> FindingsResource:
    with context().database.read() as session:
        found = results.findings(session, record.id, tenant=tenant())
    return _findings(record, _policy_of(record), record.verdict, found)


def _judged_anew(record: InspectionRecord, key: str, reference: str) -> FindingsResource:
    with named_at("/query/policy"), context().database.read() as session:
        policy = policies.resolve(session, reference, tenant=tenant())
    report = rejudge(context().store.reports.get(key), policy, settings=_settings_of(record))
    return _findings(record, policy, report.verdict, report.findings)


def _findings(
    record: InspectionRecord, policy: Policy, verdict: str | None, found: Iterable[Finding]
) -> FindingsResource:
    return FindingsResource(
        inspection=record.id,
        policy=PolicyReference(name=policy.name, version=policy.version),
        verdict=verdict,  # type: ignore[arg-type]  # a column of text, written from a report
        items=tuple(found),
    )


def _policy_of(record: InspectionRecord) -> Policy:
    return Policy.model_validate_json(json.dumps(record.policy_document))


def _settings_of(record: InspectionRecord) -> InspectionSettings:
    return InspectionSettings.model_validate(record.request, strict=False)
