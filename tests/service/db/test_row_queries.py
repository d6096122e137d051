"""Lists of layers and parameters: filters and sorts by any number, nulls last, pages that miss and repeat nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradinspect.contracts.problems import ProblemError
from gradinspect.contracts.sources import SpecSource
from gradinspect.contracts.wire.resources import LayerRow, Page
from service.db import models
from service.db.engine import Database
from service.db.lists import queries, row_queries
from service.db.lists.queries import InspectionListQuery
from service.db.lists.row_filters import RowQuery
from service.query_strings import validate_query
from tests.support.specimens import TENANT, end_well, layer, make_report, parameter, spec

GAINS = (0.25, None, 4.0, 0.25, None, 1e-7, -0.0)
MOST_PAGES = 50  # more than any list here has, so that a cursor without progress fails instead of hanging


@pytest.fixture
def inspections(database: Database) -> list[str]:
    """Make two inspections, oldest first, whose layers have the gains above, and one of another tenant."""
    report = make_report(
        tuple(
            layer(position, backward_gain=gain, kind="Linear" if position % 2 else "Conv2d")
            for position, gain in enumerate(GAINS)
        ),
        (parameter(0, grad_norm=1.0), parameter(1, grad_norm=1e-9, status="frozen")),
    )
    ids = [end_well(database, report=report) for _ in range(2)]
    end_well(database, report=report, tenant="other")
    return ids


def page(database: Database, *, within: str | None = None, **params: object) -> Page[LayerRow]:
    model = row_queries.LayerQuery if within is None else row_queries.InspectionLayerQuery
    with database.read() as session:
        return row_queries.layers(session, validate_query(model, params), tenant=TENANT, inspection=within)


def walk(database: Database, *, limit: int, within: str | None = None, **params: object) -> list[LayerRow]:
    """Return the rows of every page in turn."""
    rows: list[LayerRow] = []
    for _ in range(MOST_PAGES):
        found = page(database, within=within, limit=limit, **params)
        assert len(found.items) <= limit
        rows += found.items
        if found.next_cursor is None:
            return rows
        params["cursor"] = found.next_cursor
    raise AssertionError(f"the list has more than {MOST_PAGES} pages")


def layer_query(**params: object) -> RowQuery:
    return validate_query(row_queries.LayerQuery, params)


def parameter_query(**params: object) -> RowQuery:
    return validate_query(row_queries.ParameterQuery, params)


def gains(rows: list[LayerRow]) -> list[float | None]:
    return [row.backward_gain for row in rows]


def test_one_inspections_layers_come_in_the_reports_order(database: Database, inspections: list[str]) -> None:
    rows = walk(database, limit=3, within=inspections[0])
    assert [row.depth for row in rows] == list(range(len(GAINS)))
    assert {row.inspection for row in rows} == {inspections[0]}


def test_across_inspections_the_newest_comes_first_from_the_loss_back(
    database: Database, inspections: list[str]
) -> None:
    rows = walk(database, limit=4)
    expected = [(inspection, depth) for inspection in inspections[::-1] for depth in range(len(GAINS))[::-1]]
    assert [(row.inspection, row.depth) for row in rows] == expected


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 50])
@pytest.mark.parametrize("sort", ["backward_gain", "-backward_gain"])
def test_a_sorted_list_has_nulls_last_in_both_directions(
    database: Database, inspections: list[str], sort: str, limit: int
) -> None:
    values = sorted([gain for gain in GAINS if gain is not None], reverse=sort.startswith("-"))
    one = walk(database, sort=sort, limit=limit, within=inspections[1])
    assert gains(one) == [*values, None, None]
    everyone = walk(database, sort=sort, limit=limit)
    assert gains(everyone) == [value for value in values for _ in range(2)] + [None] * 4
    assert len({(row.inspection, row.depth) for row in everyone}) == 2 * len(GAINS)


def test_rows_with_equal_values_come_in_the_same_order_every_time(database: Database, inspections: list[str]) -> None:
    rows = walk(database, sort="forward_gain", limit=3)
    assert [(row.inspection, row.depth) for row in rows] == [(one, depth) for one in inspections for depth in range(7)]


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("backward_gain__lt", lambda gain: gain < 0.25),
        ("backward_gain__lte", lambda gain: gain <= 0.25),
        ("backward_gain__gt", lambda gain: gain > 0.25),
        ("backward_gain__gte", lambda gain: gain >= 0.25),
        ("backward_gain__eq", lambda gain: gain == 0.25),
        ("backward_gain", lambda gain: gain == 0.25),
    ],
)
def test_every_comparison_selects_its_rows_and_null_matches_none(
    database: Database, inspections: list[str], name: str, holds: Callable[[float], bool]
) -> None:
    rows = walk(database, limit=2, **{name: "0.25"})
    expected = [gain for gain in GAINS if gain is not None and holds(gain)]
    assert sorted(gains(rows), key=float) == sorted(expected * 2)  # type: ignore[arg-type]  # no null meets a filter


def test_filtered_rows_across_inspections_come_in_the_order_of_the_filter(
    database: Database, inspections: list[str]
) -> None:
    found = gains(walk(database, backward_gain__gt="0", limit=2))
    assert found == sorted(found, key=float)  # type: ignore[arg-type]  # no null meets a filter


def test_filters_by_a_range_and_a_text_are_combined(database: Database, inspections: list[str]) -> None:
    found = page(database, backward_gain__gte="0.1", backward_gain__lt="4", kind="Linear")
    assert gains(list(found.items)) == [0.25, 0.25]
    nested = page(database, signal_rms__lt="1e-6", activation_std__eq="0.25", depth__lt="3")
    assert [row.depth for row in nested.items] == [2, 2]


def test_rows_are_filtered_by_model_and_by_inspection(database: Database, inspections: list[str]) -> None:
    with database.write() as session:
        other = models.register(session, SpecSource(spec=spec()), tenant=TENANT, name="other").id
    end_well(database, report=make_report((layer(),)), model_id=other)
    assert [row.model for row in page(database, model=other).items] == [other]
    assert {row.inspection for row in page(database, inspection=inspections[0]).items} == {inspections[0]}
    assert page(database, model="mdl_of_nobody").items == []


def test_parameters_are_queried_like_layers(database: Database, inspections: list[str]) -> None:
    with database.read() as session:
        small = row_queries.parameters(session, parameter_query(grad_norm__lt="1e-7"), tenant=TENANT)
        trained = row_queries.parameters(session, parameter_query(status="trained", sort="-numel"), tenant=TENANT)
        mine = row_queries.parameters(
            session, parameter_query(sort="grad_norm"), tenant=TENANT, inspection=inspections[0]
        )
    assert [(row.inspection, row.name) for row in small.items] == [(one, "1.weight") for one in inspections]
    assert {row.name for row in trained.items} == {"0.weight"}
    assert [row.grad_norm for row in mine.items] == [1e-9, 1.0]


def test_another_tenant_s_rows_are_not_found(database: Database, inspections: list[str]) -> None:
    with database.read() as session:
        assert row_queries.layers(session, layer_query(), tenant="nobody").items == []
        assert row_queries.layers(session, layer_query(), tenant="other", inspection=inspections[0]).items == []


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("grad_nrom__lt", "1", "is unknown; known are activation_abs_max"),
        ("backward_gain__near", "1", "has no comparison 'near'; known are lt, lte"),
        ("backward_gain__lt", "small", "finite number"),
        ("backward_gain__lt", "nan", "finite number"),
        ("backward_gain__lt", "1e999", "finite number"),
        ("depth", "99999999999999999999", "finite number"),
        ("depth", "1_0", "finite number"),
        ("depth", "\u0663", "finite number"),
        ("sort", "name", "cannot sort by 'name'; known are activation_abs_max"),
        ("sort", "--depth", "cannot sort by '-depth'"),
        ("kind", "\x00", "NUL"),
        ("limit", "many", "from 1 to 500"),
        ("cursor", "nonsense", "no cursor of this list"),
        ("tenant_id", "other", "is unknown"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_is_known(database: Database, name: str, value: str, fix: str) -> None:
    with pytest.raises(ProblemError) as problem:
        page(database, **{name: value})
    (error,) = problem.value.errors
    assert (problem.value.code, error.pointer) == ("invalid_request", f"/query/{name}")
    assert fix in error.detail


def test_the_name_of_an_unknown_parameter_is_escaped_in_the_pointer() -> None:
    with pytest.raises(ProblemError) as problem:
        layer_query(**{"a/b~": "1"})
    assert [error.pointer for error in problem.value.errors] == ["/query/a~1b~0"]


def test_a_list_takes_32_filters_and_no_more() -> None:
    names = [
        f"{field}__{bound}" for field in sorted(row_queries.LAYERS.shape.numbers)[:11] for bound in ("lt", "gt", "eq")
    ]
    assert len(list(layer_query(**dict.fromkeys(names[:32], "1")).number_filters())) == 32
    with pytest.raises(ProblemError) as problem:
        layer_query(**dict.fromkeys(names[:33], "1"))
    assert [error.pointer for error in problem.value.errors] == ["/query"]


def test_the_rows_of_one_inspection_are_not_filtered_by_inspection(database: Database) -> None:
    with pytest.raises(ProblemError):
        page(database, within="insp_1", inspection="insp_2")
    assert "inspection" not in row_queries.InspectionLayerQuery.model_fields


def test_a_cursor_is_valid_for_its_filters_and_sort_only(database: Database, inspections: list[str]) -> None:
    cursor = page(database, sort="backward_gain", limit="2").next_cursor
    assert cursor is not None
    for params in ({}, {"sort": "-backward_gain"}, {"sort": "backward_gain", "depth__gt": "0"}):
        with pytest.raises(ProblemError):
            page(database, cursor=cursor, **params)
    with pytest.raises(ProblemError):
        page(database, sort="backward_gain", cursor=cursor, within=inspections[0])


def test_a_cursor_of_another_tenant_is_refused(database: Database, inspections: list[str]) -> None:
    cursor = page(database, limit=2).next_cursor
    with database.read() as session, pytest.raises(ProblemError):
        row_queries.layers(session, layer_query(cursor=cursor), tenant="other")


def test_a_filter_without_an_index_keeps_the_newest_first_across_inspections(
    database: Database, inspections: list[str]
) -> None:
    rows = walk(database, depth__gte="5", limit=1)
    assert [(row.inspection, row.depth) for row in rows] == [
        (one, depth) for one in inspections[::-1] for depth in (6, 5)
    ]


value = st.none() | st.floats(allow_nan=False, allow_infinity=False, width=16)


@given(drawn=st.lists(value, min_size=1, max_size=12), limit=st.integers(1, 5), is_descending=st.booleans())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_all_pages_together_are_the_sorted_list(
    database: Database, drawn: list[float | None], limit: int, is_descending: bool
) -> None:
    layers = tuple(layer(position, backward_gain=gain) for position, gain in enumerate(drawn))
    inspection = end_well(database, report=make_report(layers))
    sort = "-backward_gain" if is_descending else "backward_gain"
    rows = walk(database, sort=sort, limit=limit, within=inspection)
    assert len({row.depth for row in rows}) == len(drawn)
    present = sorted((gain for gain in drawn if gain is not None), reverse=is_descending)
    assert gains(rows) == [*present, *[None] * drawn.count(None)]


def test_a_list_of_one_inspection_reads_only_its_rows(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    inspection = end_well(database, report=make_report((layer(),)))
    statements: list[str] = []
    queried = [{"sort": "backward_gain"}, {"sort": "-signal_rms"}, {"backward_gain__lt": "1"}, {"signal_rms": "0"}]
    with database.read() as session:
        raw = session.connection().connection.driver_connection
        assert raw is not None
        raw.set_trace_callback(statements.append)
        for params in queried:
            query = validate_query(row_queries.InspectionLayerQuery, params)
            row_queries.layers(session, query, tenant=TENANT, inspection=inspection)
        raw.set_trace_callback(None)
        selects = [statement for statement in statements if statement.startswith("SELECT")]
        plans = [str(list(map(tuple, raw.execute(f"EXPLAIN QUERY PLAN {statement}")))) for statement in selects]
    database.dispose()
    assert len(plans) >= len(queried)
    for plan in plans:
        assert "(tenant_id=? AND inspection_id=?)" in plan, "an index over all inspections would read everybody's rows"


def test_filters_across_inspections_use_an_index(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    end_well(database, report=make_report((layer(),), (parameter(),)))
    statements: list[str] = []
    with database.read() as session:
        connection = session.connection()
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.set_trace_callback(statements.append)
        row_queries.layers(session, layer_query(backward_gain__lt="1"), tenant=TENANT)
        row_queries.layers(session, layer_query(sort="-backward_gain"), tenant=TENANT)
        row_queries.layers(session, layer_query(name="7"), tenant=TENANT)
        row_queries.layers(session, layer_query(model="mdl_1"), tenant=TENANT)
        row_queries.parameters(session, parameter_query(grad_norm__lt="1e-7"), tenant=TENANT)
        row_queries.parameters(session, parameter_query(status="frozen"), tenant=TENANT)
        queries.inspections(session, InspectionListQuery(status="queued"), tenant=TENANT)
        raw.set_trace_callback(None)
        plans = [
            " ".join(str(row) for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}"))
            for statement in statements
            if statement.startswith("SELECT")
        ]
    database.dispose()
    indexes = [*["layers_backward_gain"] * 3, "layers_name", "layers_model_id", "parameters_grad_norm",
               "parameters_status", "inspections_status"]  # fmt: skip
    assert len(plans) == len(indexes)
    for text, index in zip(plans, indexes, strict=True):
        assert index in text
        assert "TEMP B-TREE" not in text, "nothing is sorted: the index has the order"
