"""Lists of layers and parameters, of one inspection and across all."""

from __future__ import annotations

import csv
from io import StringIO

import pytest
from flask.testing import FlaskClient

from gradinspect.contracts.wire.resources import LayerRow, Page, ParameterRow
from gradinspect.testing.measurements import chain, changed_parameter, layer, measurements, parameter
from tests.support.callers import pointers, problem
from tests.support.specimens import Ended


def test_the_layers_of_an_inspection_come_in_its_order(client: FlaskClient, ended: Ended) -> None:
    inspection = ended()
    answer = client.get(f"/v1/inspections/{inspection}/layers")
    rows = Page[LayerRow].model_validate_json(answer.get_data()).items
    assert [row.depth for row in rows] == list(range(6))
    assert {row.inspection for row in rows} == {inspection}


def test_rows_are_sorted_and_filtered_by_their_numbers(client: FlaskClient, ended: Ended) -> None:
    inspection = ended(chain((0.5, 2.0, 0.25)))
    place = f"/v1/inspections/{inspection}/layers"
    assert gains(client, f"{place}?sort=backward_gain") == [0.25, 0.5, 2.0, None]
    assert gains(client, f"{place}?sort=-backward_gain") == [2.0, 0.5, 0.25, None]
    assert gains(client, f"{place}?backward_gain__lt=1&backward_gain__gte=0.5") == [0.5]
    assert gains(client, f"{place}?signal_rms__gt=0&name=1") == [2.0]


def gains(client: FlaskClient, address: str) -> list[float | None]:
    answer = client.get(address)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return [item["backward_gain"] for item in answer.get_json()["items"]]


def test_layers_are_found_by_the_gradient_of_their_parameters(client: FlaskClient, ended: Ended) -> None:
    rows = [layer(depth, grad_norm=norm) for depth, norm in enumerate((1e-9, 0.5, None))]
    inspection = ended(measurements(rows, [parameter("0.weight")]))
    for place in (f"/v1/inspections/{inspection}/layers", "/v1/layers"):
        small = client.get(f"{place}?grad_norm__lt=1e-7").get_json()["items"]
        assert [(row["name"], row["grad_norm"]) for row in small] == [("0", 1e-9)]
        names = [row["name"] for row in client.get(f"{place}?sort=-grad_norm").get_json()["items"]]
        assert names == ["1", "0", "2"]


def test_rows_name_the_models_that_have_such_a_layer(client: FlaskClient, ended: Ended) -> None:
    ended(chain((0.9,) * 3))
    sick = ended(chain((1e-3, 0.9)))
    found = client.get("/v1/layers?backward_gain__lt=0.1").get_json()["items"]
    assert [(row["inspection"], row["name"]) for row in found] == [(sick, "0")]
    quiet = ended(changed_parameter(chain(), "1.weight", grad_norm=1e-9))
    found = client.get("/v1/parameters?grad_norm__lt=1e-7").get_json()["items"]
    assert [(row["inspection"], row["name"]) for row in found] == [(quiet, "1.weight")]
    assert client.get(f"/v1/parameters?inspection={quiet}&name=1.weight").get_json()["items"] == found


def test_pages_follow_each_other_by_the_link_header(client: FlaskClient, ended: Ended) -> None:
    inspection = ended()
    seen, address = [], f"/v1/inspections/{inspection}/parameters?limit=5&sort=-grad_norm"
    while address:
        answer = client.get(address)
        seen += [row["name"] for row in answer.get_json()["items"]]
        link = answer.headers.get("Link")
        address = link.removeprefix("<").removesuffix('>; rel="next"') if link else ""
    assert len(seen) == len(set(seen)) == 12


def test_a_csv_page_has_a_link_to_the_next_one(client: FlaskClient, ended: Ended) -> None:
    inspection = ended()
    for answer in (
        client.get(f"/v1/layers?limit=4&sort=depth&inspection={inspection}&format=csv"),
        client.get(f"/v1/layers?limit=4&sort=depth&inspection={inspection}", headers={"Accept": "text/csv"}),
    ):
        assert answer.mimetype == "text/csv"
        rows = list(csv.DictReader(StringIO(answer.get_data(as_text=True))))
        assert [(row["inspection"], row["depth"]) for row in rows] == [(inspection, str(i)) for i in range(4)]
        assert 'rel="next"' in answer.headers["Link"]


def test_rows_read_back_as_what_was_measured(client: FlaskClient, ended: Ended) -> None:
    measured = chain((0.1,) * 5)
    answer = client.get(f"/v1/inspections/{ended(measured)}/parameters")
    row = Page[ParameterRow].model_validate_json(answer.get_data()).items[0]
    fields = {name: getattr(row, name) for name in type(measured.parameters[0]).model_fields}
    assert fields == measured.parameters[0].model_dump() | {
        name: value for name, value in fields.items() if name in ("grad_quantiles", "log2_histogram")
    }


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("nobody=1", "/query/nobody"), ("backward_gain__about=1", "/query/backward_gain__about"),
        ("backward_gain=nan", "/query/backward_gain"), ("backward_gain=1e999", "/query/backward_gain"),
        ("depth=99999999999999999999", "/query/depth"), ("backward_gain=", "/query/backward_gain"),
        ("sort=nobody", "/query/sort"), ("sort=name", "/query/sort"), ("limit=0", "/query/limit"),
        ("limit=501", "/query/limit"), ("limit=ten", "/query/limit"), ("cursor=zzzz", "/query/cursor"),
        ("cursor=%F0%9F%92%A9", "/query/cursor"), ("name=a%00b", "/query/name"), ("limit=1&limit=2", "/query/limit"),
        ("format=xml", "/query/format"), ("kind=" + "x" * 600, "/query/kind"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named(client: FlaskClient, query: str, pointer: str) -> None:
    found = problem(client.get(f"/v1/layers?{query}"), "invalid_request")
    assert pointers(found) == [pointer]


def test_a_cursor_of_another_list_is_refused(client: FlaskClient, ended: Ended) -> None:
    ended()
    cursor = client.get("/v1/layers?limit=1").get_json()["next_cursor"]
    for other in (f"/v1/parameters?cursor={cursor}", f"/v1/layers?sort=depth&cursor={cursor}"):
        assert pointers(problem(client.get(other), "invalid_request")) == ["/query/cursor"]


def test_a_query_that_is_not_utf8_is_refused(client: FlaskClient) -> None:
    problem(client.get("/v1/layers?name=%FF"), "bad_request")
