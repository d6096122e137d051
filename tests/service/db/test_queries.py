"""Lists of inspections and models: newest first, filtered, in pages that miss and repeat nothing."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any  # Any: parameters of a query

import pytest
from sqlalchemy import select, update

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.sources import SpecSource
from service.db import clock, models
from service.db.engine import Database
from service.db.lists import cursors, queries
from service.db.lists.pages import Listing
from service.db.lists.queries import InspectionListQuery, ModelListQuery
from service.db.results import writing as results
from service.db.tables import InspectionRecord, LabelRecord
from service.query_strings import validate_query
from tests.support.specimens import TENANT, end_well, finding, make_report, read, spec, submit, take

MOST_PAGES = 50  # more than any list here has, so that a cursor without progress fails instead of hanging


def page(database: Database, tenant: str = TENANT, **params: object) -> Listing[InspectionRecord]:
    query = validate_query(InspectionListQuery, params)
    with database.read() as session:
        return queries.inspections(session, query, tenant=tenant)


def listed(database: Database, tenant: str = TENANT, **params: object) -> list[str]:
    return [item.id for item in page(database, tenant, **params).items]


def all_pages(database: Database, *, limit: int) -> list[list[str]]:
    pages = []
    cursor: dict[str, str] = {}
    for _ in range(MOST_PAGES):
        found = page(database, limit=limit, **cursor)
        pages.append([item.id for item in found.items])
        if found.next_cursor is None:
            return pages
        cursor = {"cursor": found.next_cursor}
    raise AssertionError(f"the list has more than {MOST_PAGES} pages")


def problem_of(database: Database, **params: Any) -> tuple[str, str]:
    with pytest.raises(ProblemError) as problem:
        page(database, **params)
    assert problem.value.code == "invalid_request"
    (error,) = problem.value.errors
    return error.pointer, error.detail


def test_inspections_come_newest_first_and_only_the_tenants_own(database: Database) -> None:
    ids = [submit(database).id for _ in range(3)]
    submit(database, tenant="other")
    assert listed(database) == ids[::-1]


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
def test_pages_of_any_size_give_every_inspection_once(database: Database, limit: int) -> None:
    ids = [submit(database).id for _ in range(6)]
    pages = all_pages(database, limit=limit)
    assert [item for page in pages for item in page] == ids[::-1]
    assert len(pages) == -(-6 // limit)


def test_inspections_of_one_moment_are_paged_by_their_ids(database: Database) -> None:
    ids = [submit(database).id for _ in range(4)]
    with database.write() as session:
        session.execute(update(InspectionRecord).values(created_at=clock.now()))
    assert [item for page in all_pages(database, limit=1) for item in page] == sorted(ids, reverse=True)


def test_inspections_that_arrive_between_pages_do_not_shift_them(database: Database) -> None:
    ids = [submit(database).id for _ in range(4)]
    first = page(database, limit=2)
    submit(database)
    assert listed(database, limit=2, cursor=first.next_cursor) == ids[1::-1]


def test_filters_by_state_verdict_and_model(database: Database) -> None:
    queued = submit(database).id
    running = submit(database).id
    take(database, running)
    passed = end_well(database)
    with database.write() as session:
        other = models.register(session, SpecSource(spec=spec()), tenant=TENANT, name="other").id
    failed = end_well(database, report=make_report(verdict="fail"), model_id=other)
    assert listed(database, status="queued") == [queued]
    assert listed(database, status="running") == [running]
    assert listed(database, status="succeeded") == [failed, passed]
    assert listed(database, verdict="fail") == [failed]
    assert listed(database, model=other) == [failed]
    assert listed(database, model=other, verdict="pass") == []


def test_inspections_and_models_are_found_by_the_name_of_the_model(database: Database) -> None:
    def registered(name: str | None, tenant: str = TENANT) -> str:
        with database.write() as session:
            return models.register(session, SpecSource(spec=spec()), tenant=tenant, name=name).id

    mlp, longer, unnamed = registered("mlp"), registered("mlp 2"), registered(None)
    foreign = registered("mlp", tenant="other")
    ids = [submit(database, model_id=model).id for model in (mlp, longer, unnamed)]
    submit(database, model_id=foreign, tenant="other")
    assert listed(database, name="mlp") == [ids[0]]
    assert listed(database, name="ml") == []
    with database.read() as session:
        found = queries.models(session, ModelListQuery(name="mlp"), tenant=TENANT).items
    assert [model.id for model in found] == [mlp]


def test_filters_by_labels_which_must_all_be_there(database: Database) -> None:
    both = submit(database, labels={"team": "vision", "url": "a=b"}).id
    one = submit(database, labels={"team": "vision"}).id
    submit(database, labels={"team": "speech"})
    assert listed(database, label=["team=vision"]) == [one, both]
    assert listed(database, label=["team=vision", "url=a=b"]) == [both]
    assert listed(database, label=["url"]) == [both]
    assert listed(database, label=["team="]) == []


def test_filters_by_the_rule_that_fired(database: Database) -> None:
    dead = end_well(database, report=make_report(findings=(finding("dead_units"), finding("dead_units"))))
    end_well(database, report=make_report(findings=(finding("sharpness"),)))
    assert listed(database, rule="dead_units") == [dead]
    assert listed(database, rule="sharpness") != [dead]


def test_labels_and_findings_of_another_tenant_with_the_same_id_are_ignored(database: Database) -> None:
    mine, theirs = submit(database), submit(database, tenant="other")
    with database.write() as session:
        twin = {column.key: getattr(theirs, column.key) for column in InspectionRecord.__table__.columns}
        session.add(InspectionRecord(**twin | {"id": mine.id}))
        session.flush()
        session.add(LabelRecord(inspection_id=mine.id, tenant_id="other", key="team", value="vision"))
        owner = results.RowOwner(inspection_id=mine.id, tenant_id="other", model_id=theirs.model_id)
        results.insert(session, make_report(findings=(finding("dead_units"),)), owner)
    assert listed(database, "other", label=["team=vision"]) == [mine.id]
    assert listed(database, "other", rule="dead_units") == [mine.id]
    assert listed(database, label=["team=vision"]) == []
    assert listed(database, label=["team"]) == []
    assert listed(database, rule="dead_units") == []


def test_filters_by_time_are_exclusive(database: Database) -> None:
    old, new = submit(database).id, submit(database).id
    with database.write() as session:
        one = update(InspectionRecord).where(InspectionRecord.id == old)
        session.execute(one.values(created_at=clock.now_plus(-3600)))
    with database.read() as session:
        middle = session.execute(select(clock.now_plus(-1800))).scalar_one().isoformat()
    moment = read(database, old).created_at.isoformat()
    assert listed(database, created_after=middle) == [new]
    assert listed(database, created_before=middle) == [old]
    assert listed(database, created_after=moment) == [new]
    assert listed(database, created_before=moment) == []


def test_hidden_inspections_are_not_listed(database: Database) -> None:
    hidden = end_well(database)
    with database.write() as session:
        session.execute(update(InspectionRecord).values(deleted_at=clock.now()))
    assert hidden not in listed(database)


@pytest.mark.parametrize(
    ("parameter", "value", "fix"),
    [
        ("status", "done", "is one of queued, running"),
        ("verdict", "good", "is one of pass, warn"),
        ("rule", "nothing", "there is no such rule; known are"),
        ("created_after", "2026-01-31T12:00:00", "with its zone"),
        ("created_after", "yesterday", "with its zone"),
        ("created_before", "0001-01-01T00:00:00+14:00", "with its zone"),
        ("limit", "0", "from 1 to 500"),
        ("limit", "501", "from 1 to 500"),
        ("limit", "1e2", "from 1 to 500"),
        ("limit", "\u0663", "from 1 to 500"),
        ("sort", "name", "is unknown; known are created_after"),
        ("label", "team\x00", "NUL"),
        ("model", "\x00", "NUL"),
    ],
)
def test_a_wrong_parameter_is_named_with_the_fix(database: Database, parameter: str, value: str, fix: str) -> None:
    pointer, detail = problem_of(database, **{parameter: [value] if parameter == "label" else value})
    assert pointer == f"/query/{parameter}"
    assert fix in detail


def invalid_cursors(cursor: str, database: Database) -> Sequence[str]:
    with database.read() as session:
        binding = cursors.binding(session)

    def forged(*parts: object) -> str:
        text = json.dumps(parts).encode()
        return urlsafe_b64encode(binding.sign(text).encode() + text).decode()

    bound_to, moment, last = json.loads(urlsafe_b64decode(cursor + "===")[cursors.SIGNATURE_LETTERS :])
    return [
        "",
        "nonsense",
        "\u00fc",
        cursor[:-4],
        cursor + cursor,
        "A" * 2000,
        forged("other", moment, last),
        forged(bound_to, moment),
        forged(bound_to, moment, last, last),
        forged(bound_to, "2026-01-01", last),
        forged(bound_to, 1, last),
        forged(bound_to, moment, None),
        forged(bound_to, moment, "\x00"),
        urlsafe_b64encode(b"[" * 700).decode(),
    ]


def test_an_invalid_cursor_is_refused(database: Database) -> None:
    for _ in range(2):
        submit(database)
    cursor = page(database, limit=1).next_cursor
    assert cursor is not None
    for other in invalid_cursors(cursor, database):
        assert problem_of(database, cursor=other)[0] == "/query/cursor", other


def test_a_cursor_is_valid_for_its_list_only(database: Database) -> None:
    for _ in range(2):
        submit(database)
    cursor = page(database, limit=1).next_cursor
    assert cursor is not None
    assert len(listed(database, cursor=cursor, limit=7)) == 1
    for params in ({"status": "queued"}, {"label": ["team"]}, {"created_after": "2020-01-01T00:00:00Z"}):
        with pytest.raises(ProblemError):
            page(database, cursor=cursor, **params)
    with pytest.raises(ProblemError):
        page(database, "other", cursor=cursor)
    with database.read() as session, pytest.raises(ProblemError):
        queries.models(session, ModelListQuery(cursor=cursor), tenant=TENANT)


def test_models_come_newest_first_without_deleted_ones(database: Database) -> None:
    with database.write() as session:
        ids = [models.register(session, SpecSource(spec=spec()), tenant=TENANT, name=None).id for _ in range(3)]
        models.register(session, SpecSource(spec=spec()), tenant="other", name=None)
    with database.write() as session:
        models.delete(session, ids[1], tenant=TENANT)
    with database.read() as session:
        first = queries.models(session, ModelListQuery(limit=1), tenant=TENANT)
        rest = queries.models(session, ModelListQuery(cursor=first.next_cursor), tenant=TENANT)
    assert [item.id for item in [*first.items, *rest.items]] == sorted([ids[0], ids[2]], reverse=True)
    assert rest.next_cursor is None
